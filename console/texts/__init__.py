"""The catalogue: every text of the console, one file a language, the same keys in each."""

from __future__ import annotations

import tomllib
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from worker.commands.show import DAY, size, span

FOLDER = Path(__file__).parent
FIRST = "en"
LANGUAGES = {"en": "English", "de": "Deutsch"}
ISOLATE, END = "\u2068", "\u2069"
# Right-to-left letters, and the controls with which a sender can turn what follows.
TURNING = frozenset(("R", "AL", "RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI"))


class Texts:
    """One language's texts, by dotted key."""

    def __init__(self, language: str, texts: Mapping[str, str]) -> None:
        self.language = language
        self.keys = texts.keys()
        self._texts = texts

    def __call__(self, key: str, **values: object) -> str:
        """The text of `key` with its values put in: numbers as this language writes them, names isolated.

        Raises:
            KeyError: there is no such text.
        """
        text = self._texts[key]
        return text.format(**{name: self._value(value) for name, value in values.items()}) if values else text

    def known(self, key: str, otherwise: str) -> str:
        """The text of `key`, or of `otherwise` if there is none: for names that come from outside."""
        return self._texts.get(key) or self._texts[otherwise]

    def number(self, value: float, digits: int = 0) -> str:
        """`1,234.5` in English, `1.234,5` in German. `digits`: after the decimal mark."""
        marks = {",": self._texts["number.group"], ".": self._texts["number.decimal"]}
        return "".join(marks.get(mark, mark) for mark in f"{value:,.{digits}f}")

    def size(self, count: float) -> str:
        """Bytes in the largest suitable unit: `2.3 MB`."""
        return size(count).replace(".", self._texts["number.decimal"])

    def span(self, seconds: float) -> str:
        """A duration in one unit: `5 min`, `3 days`."""
        return self("number.days", count=int(seconds // DAY)) if seconds >= 2 * DAY else span(seconds)

    def _value(self, value: object) -> str:
        return self.number(value) if isinstance(value, int) else isolated(str(value))


def isolated(name: str) -> str:
    """A name that somebody chose, which then cannot turn the direction of the words around it."""
    if all(unicodedata.bidirectional(char) not in TURNING for char in name):
        return name
    return f"{ISOLATE}{name.replace(END, '')}{END}"


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
