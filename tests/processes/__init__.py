"""Tests that start, stop, kill or freeze processes: servers, databases, commands and load tests."""
