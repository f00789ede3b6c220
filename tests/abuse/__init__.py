"""What clients may do wrong, by mistake or on purpose, against a real server.

The tests are the short form. `python -m tests.abuse` sends 100,000 bad inputs and attacks another tenant 10,000 times.
`python -m tests.abuse.good_clients` measures how bad clients slow down good ones.
"""
