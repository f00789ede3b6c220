"""`python -m server` is `sluice`."""

from server.cli.main import main

main()
