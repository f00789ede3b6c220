"""The command line: `main.py` has the table of commands, and each noun has a file of commands."""
