"""Tests of the two APIs through one server, which the tests of a process share."""
