"""Code that runs inside Locust, where gevent has replaced the standard library's sockets and threads.

It is in a package of its own, because nothing else may be imported into such a process or import from it.
"""
