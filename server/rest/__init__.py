"""REST: from HTTP to the core and back, on Litestar. Imports `server.core` and `server.status`; no driver."""
