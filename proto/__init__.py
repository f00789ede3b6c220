"""The gRPC schema and the code generated from it."""
