"""Errors of processes, for the operator."""

UNREACHABLE = (
    "the database cannot be reached, or has no majority that confirms writes: "
    "see that all its members run, and that --mongodb-url is right"
)


class StartError(Exception):
    """A process of the server could not start. The text is one line for the operator."""


class WorkerKilled(StartError):
    """A worker was ended by a signal before it was ready: by the operator, or by the kernel, which needed memory."""
