"""Who may send: keys, admission of requests, and the rate limit."""
