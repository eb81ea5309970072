"""Parses a line typed at the prompt of `wa-worker demo --play`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Verb = Literal["text", "picture", "edit", "delete", "from", "to", "kill", "start", "help", "quit"]

HELP = """\
a line of text        is sent to the group, as the person named in the prompt
/picture [CAPTION]    sends a picture
/edit TEXT            changes that person's last text
/delete               takes their last message back
/from NAME            another person speaks: {people}
/to GROUP             in another group: {groups}
/kill                 kill -9 of the worker; what is sent then waits with the virtual WhatsApp
/start                starts it again: what waited is stored
/help, /quit"""


@dataclass(frozen=True)
class Order:
    """A verb and the words after it."""

    verb: Verb
    words: str = ""


def parse(line: str) -> Order | None:
    """The order in a line; None for a blank line or an unknown verb."""
    text = line.strip()
    if not text.startswith("/"):
        return Order("text", text) if text else None
    verb, _, words = text[1:].partition(" ")
    found = next((each for each in get_args(Verb) if each != "text" and each == verb.lower()), None)
    return Order(found, words.strip()) if found else None


def named(words: str, among: dict[str, str]) -> str | None:
    """The key that starts with these words, or whose name does, ignoring case; None if there is none, or several."""
    wanted = words.casefold()
    found = [key for key, name in among.items() if (wanted and name.casefold().startswith(wanted)) or key == wanted]
    return found[0] if len(found) == 1 else None
