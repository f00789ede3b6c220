"""How many requests and events each tenant sent, and what became of them, by minute and by hour."""
