"""Everything that callers may do wrong, or in bad faith, against a real server.

The tests here are the short form. `python -m tests.abuse` tries 100,000 bad inputs, and every way into another tenant;
`python -m tests.abuse.good_clients` measures what good callers notice of bad ones.
"""
