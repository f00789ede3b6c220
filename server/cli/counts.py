"""Writes numbers of things, as messages have them."""


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as `1 event` and `2,000 events`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
