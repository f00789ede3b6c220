"""`server/README.md` names only what exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NAMED = re.compile(r"`([\w/]+\.py):([\w.]+)`")
"""A function, class or constant of a file, such as `rest/app.py:create_app`."""


@pytest.mark.parametrize(("file", "name"), NAMED.findall((ROOT / "server/README.md").read_text()))
def test_what_is_named_exists(file: str, name: str) -> None:
    text = (ROOT / ("" if file.startswith("storage/") else "server") / file).read_text()
    for part in name.split("."):
        assert re.search(rf"^ *(async def|def|class) {part}\b|^{part}\b.* = ", text, re.MULTILINE), part
