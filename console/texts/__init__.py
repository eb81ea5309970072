"""The catalogue: every text of the console, one file a language, the same keys in each."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
FIRST = "en"
LANGUAGES = {"en": "English", "de": "Deutsch"}


class Texts:
    """One language's texts, by dotted key."""

    def __init__(self, language: str, texts: Mapping[str, str]) -> None:
        self.language = language
        self.keys = texts.keys()
        self._texts = texts

    def __call__(self, key: str, **values: object) -> str:
        """The text of `key` with its values put in.

        Raises:
            KeyError: there is no such text.
        """
        return self._texts[key].format(**values) if values else self._texts[key]

    def known(self, key: str, otherwise: str) -> str:
        """The text of `key`, or of `otherwise` if there is none: for names that come from outside."""
        return self._texts.get(key) or self._texts[otherwise]


@cache
def texts(language: str) -> Texts:
    """The catalogue of one of `LANGUAGES`."""
    with (FOLDER / f"{language}.toml").open("rb") as file:
        return Texts(language, dict(_flat(tomllib.load(file))))


def choose(wanted: str | None, accepted: str) -> str:
    """The language to use: the one chosen, else the first of an Accept-Language header that there is."""
    if wanted in LANGUAGES:
        return wanted
    for part in accepted.split(",")[:20]:
        language = part.split(";")[0].strip().lower().split("-")[0]
        if language in LANGUAGES:
            return language
    return FIRST


def _flat(table: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in table.items():
        found += _flat(value, f"{before}{name}.") if isinstance(value, dict) else [(f"{before}{name}", value)]
    return found
