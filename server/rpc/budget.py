"""Bounds how much of a message is looked at."""


class Budget:
    """A number of things that may be looked at yet. `error` is raised if they are more."""

    def __init__(self, count: int, error: type[Exception]) -> None:
        self._count = count
        self._error = error

    def spend(self, count: int = 1) -> None:
        """Count more of them. Raises the error if fewer are left."""
        self._count -= count
        if self._count < 0:
            raise self._error
