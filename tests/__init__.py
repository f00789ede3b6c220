"""The tests. They use the public faces only: HTTP, the command line, processes, signals, and what stands in MongoDB."""
