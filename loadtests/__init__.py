"""Load tests: how many events Sluice takes, how fast, and what becomes of too many. They run it as its users do."""
