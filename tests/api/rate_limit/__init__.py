"""The rate limit as a client meets it, through one server."""
