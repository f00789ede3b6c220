"""A batch sent again under its idempotency key, through one server."""
