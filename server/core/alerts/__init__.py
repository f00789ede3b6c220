"""Alerts: what became of rules that fired."""
