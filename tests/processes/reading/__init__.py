"""Reads under load, of large events, and of a collection that an operator has changed."""
