"""Processes: the supervisor, its workers, and what they are composed of."""
