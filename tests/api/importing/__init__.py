"""`sluice import` against a server."""
