"""REST and gRPC are one service: what is stored, answered and rejected is the same over both."""
