"""Faults under load, in a random order made from a seed: `python -m tests.faults` (`--help`).

A replica set of three and two hosts of Sluice store batches over REST and gRPC. Meanwhile members of the database
crash, hang, step down and refuse commands, and workers and hosts are killed or drain. Every attempt is recorded as
acknowledged, rejected or unknown. At the end the database is compared with these records. `__main__.py` is the command,
`course.py` the course of a seed. A short run is among the tests.
"""
