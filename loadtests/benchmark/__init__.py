"""The benchmark: `python -m loadtests.benchmark`. Start reading at `__main__.py`."""
