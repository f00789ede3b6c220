"""The REST API, on Litestar."""
