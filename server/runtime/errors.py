"""Errors of processes, for the operator."""


class StartError(Exception):
    """A process of the server could not start. The text is one line for the operator."""
