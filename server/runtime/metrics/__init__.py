"""The metrics of a server: workers count in shared memory, and the supervisor serves the sums."""
