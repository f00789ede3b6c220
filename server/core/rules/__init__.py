"""Rules on what a tenant has stored, and their evaluation."""
