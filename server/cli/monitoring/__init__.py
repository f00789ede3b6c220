"""The work of `sluice rules`: reads rules from YAML, brings a tenant's rules up to that, and tests them offline."""
