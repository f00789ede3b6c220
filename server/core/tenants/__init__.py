"""Tenants: how long their events are kept, and how they are deleted."""
