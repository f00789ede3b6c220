"""HTTP: connections, request heads and bodies, and responses."""
