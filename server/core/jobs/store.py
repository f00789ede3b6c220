"""The port to where the leases of deployment jobs are kept. `storage/leases.py` implements it.

Theory of operation. A job has one lease, which one worker at a time holds, until a moment of the database's clock. The
holder renews it while it lives. If the holder dies, the lease ends by itself, and another worker acquires it.

A lease alone does not keep a second worker from writing. A holder can be frozen (SIGSTOP, a paused machine) between its
last check and its next write. So each lease has a fencing number, which grows each time the lease changes hands. The
holder writes it into the documents of its job, and makes each write conditional on it.

Example with a lease of 15 s, and a job that keeps one document:
1. At 0 s worker A acquires the lease: number 7, until 15 s. It sets `fence: 7` in its document.
2. At 2 s A is frozen. At 15 s the lease ends. At 16 s worker B acquires it: number 8.
3. B updates the document with the query `fence: {$lte: 8}`. The document has 7, so the update is applied, and sets 8.
4. At 40 s A wakes and sends the update that it was about to send, with the query `fence: {$lte: 7}`. The document has
   8, so nothing matches: A is refused. Its renewal is refused too, and its job is cancelled.

A job whose writes may be repeated and overlap, such as dropping what has expired, needs no fencing number.
"""

from typing import NamedTuple, Protocol

from server.core.deadline import Deadline


class JobLease(NamedTuple):
    """A lease as its holder knows it."""

    job: str
    holder: str
    fence: int
    """The fencing number: higher than that of each earlier holder."""


class LeaseStore(Protocol):
    """Keeps one lease for each job. Whether a lease has ended is decided by the clock of the database alone."""

    async def acquire(self, job: str, holder: str, duration_s: float, deadline: Deadline) -> JobLease | None:
        """Acquire a lease that nobody holds, for `duration_s` from now, and give it the next fencing number.

        A holder that acquires its own lease again keeps the number. So a call whose response was lost may be repeated.
        Returns None if another holds the lease. Raises Unavailable.
        """

    async def renew(self, lease: JobLease, duration_s: float, deadline: Deadline) -> bool:
        """Let a lease last for `duration_s` from now. Returns False if another has acquired it. Raises Unavailable."""

    async def release(self, job: str, holder: str, deadline: Deadline) -> None:
        """End a lease if `holder` has it, so that others can acquire it at once. Raises Unavailable."""
