"""Implements the ports of `server.core` with MongoDB. No other package but `loadtests` and `tests` sees a driver."""
