"""The time a request may still take. Imports the standard library only."""

from time import monotonic

REQUEST_TIMEOUT_S = 10.0
"""All that the server does for one request, waits for an election included. Past it the answer is 503."""


class Deadline:
    """Counts down from `seconds`; everything the server does for one request takes from the same count."""

    def __init__(self, seconds: float = REQUEST_TIMEOUT_S) -> None:
        self._end = monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; zero or less when there is no time left."""
        return self._end - monotonic()

    def reset(self, seconds: float) -> None:
        """Count from `seconds` again: what the caller took to send its body is not the server's time."""
        self._end = monotonic() + seconds
