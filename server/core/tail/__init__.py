"""Follows a tenant's events as they are stored: catch-up, then live."""
