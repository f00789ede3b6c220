"""gRPC: from messages to the core and back, on grpc.aio. Imports `server.core` and `server.status`; no driver."""
