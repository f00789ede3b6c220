"""REST and gRPC are one service: the same batches are stored and rejected, with the same responses."""
