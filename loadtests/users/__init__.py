"""What runs inside Locust, where gevent has replaced the standard library's sockets and threads. Nothing else does."""
