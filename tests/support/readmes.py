"""The examples of the READMEs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def examples(language: str, part: str, readme: str = "README.md") -> list[str]:
    """The code blocks of a README in a language that have this part."""
    text = (ROOT / readme).read_text()
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if part in block]
