"""The README's two commands on a bare Debian."""
