"""The deadline of a request: how much time the server may still use for it."""

from time import monotonic
from types import TracebackType

REQUEST_TIMEOUT_S = 10.0
"""All that the server does for one request, including the wait for an election. Past it the response is 503."""


class Deadline:
    """Counts down from `seconds`. Every step of one request uses the same deadline."""

    def __init__(self, seconds: float = REQUEST_TIMEOUT_S) -> None:
        self._end = monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; zero or less if the deadline has passed."""
        return self._end - monotonic()

    def paused(self) -> "PausedDeadline":
        """A context manager inside which the deadline does not count down: while the client sends its body."""
        return PausedDeadline(self)

    def reset(self, seconds: float) -> None:
        """Count down from `seconds` again."""
        self._end = monotonic() + seconds


class PausedDeadline:
    """What `Deadline.paused` returns."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        self._seconds = self._deadline.remaining()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deadline.reset(self._seconds)
