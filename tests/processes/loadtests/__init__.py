"""The load tests and the benchmark: that they pass, in a short form, and that their checks notice what is broken."""
