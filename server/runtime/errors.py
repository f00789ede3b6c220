"""Errors of processes, for the operator."""


class StartError(Exception):
    """A process of the server could not start. The text is one line for the operator."""


class WorkerKilled(StartError):
    """A worker was ended by a signal before it was ready: by the operator, or by the kernel, which needed memory."""
