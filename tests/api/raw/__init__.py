"""Reading events back: the list with its filters, and one event by its id."""
