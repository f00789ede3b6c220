"""Finds the option of a URL that a driver does not take, so that a message can name it.

The driver's own messages cannot be shown: some quote values, which may be secret.
"""

import re
from collections.abc import Callable

from pymongo.common import URI_OPTIONS_VALIDATOR_MAP

KNOWN_OPTIONS = frozenset(URI_OPTIONS_VALIDATOR_MAP)
"""The options of URLs, in lower case. Only these are named: what looks like another may be part of a password."""


def option_at_fault(url: str, is_taken: Callable[[str], bool]) -> str | None:
    """The known option without which `url` is taken; None if there is no such one.

    In `mongodb://a,b/?directConnection=true&w=1` it is `directConnection`, since `mongodb://a,b/?w=1` is taken.
    """
    base, _, query = url.partition("?")
    options = re.split("[&;]", query)
    for index, option in enumerate(options):
        name = option.partition("=")[0]
        others = "&".join(options[:index] + options[index + 1 :])
        if name.lower() in KNOWN_OPTIONS and is_taken(f"{base}?{others}"):
            return name
    return None
