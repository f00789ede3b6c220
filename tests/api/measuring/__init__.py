"""What rules measure of stored events."""
