"""The engine of `sluice import`."""
