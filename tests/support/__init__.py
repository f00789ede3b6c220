"""What tests share: servers and databases to start, clients of both APIs, and checks of their responses."""
