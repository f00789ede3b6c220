"""What the load tests share: everything that is not itself a load test."""
