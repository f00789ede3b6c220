"""The benchmark: `python -m loadtests.benchmark`. Starts at `__main__.py`."""
