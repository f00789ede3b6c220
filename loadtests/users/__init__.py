"""The code that runs inside Locust.

It is in a package of its own: gevent replaces the sockets and threads of its process, so nothing else may run there.
"""
