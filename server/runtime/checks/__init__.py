"""What `sluice check` looks at, before a server starts or beside one that runs."""
