"""Reads the examples of the pages in docs/."""

from __future__ import annotations

import re


def code_blocks(text: str, language: str) -> list[str]:
    """The code blocks of a page in this language, in order."""
    return [str(block) for block in re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
