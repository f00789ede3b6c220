"""The gRPC API, on grpc.aio."""
