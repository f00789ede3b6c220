"""Load tests: how much Sluice takes, and how fast. They run it as its users do."""
