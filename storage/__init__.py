"""Everything that knows MongoDB. Imports `server.core` and the driver; nothing of HTTP, gRPC or the command line."""
