"""Jobs that run once per deployment, whatever the number of workers and hosts."""
