"""Faults under load, in an order drawn from a seed, and whether the promise held: `python -m tests.faults` (`--help`).

A replica set of three and two hosts of Sluice take batches over REST and gRPC while members of the database crash,
hang, step down and refuse commands, and workers and hosts die or drain. Every attempt is written down as acknowledged,
refused or unknown; at the end the database is compared with that. Starts at `__main__.py`; a seed's course is in
`course.py`. A short one is among the tests.
"""
