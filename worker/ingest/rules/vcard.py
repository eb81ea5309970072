"""Reads a contact card (vCard 2.1 to 4.0, RFC 6350): name, organisation, phones, emails. Omits pictures.

Total: any input gives a small object, in one pass over the lines.
"""

from __future__ import annotations

import quopri
import re
from typing import Any

MAX_CARD_CHARS = 256 * 1024  # WhatsApp's cards include a thumbnail of some kilobytes
MAX_ENTRIES = 20  # numbers, or addresses, per person
MAX_VALUE_CHARS = 256

_LINE = re.compile(
    r"(?:[A-Za-z0-9-]+\.)?(?P<name>[A-Za-z-]+)(?P<parameters>(?:;[^:;\"]*(?:\"[^\"]*\")?)*):(?P<value>.*)"
)
_ESCAPED = re.compile(r"\\(.)")
_WA_ID = re.compile(r"waid=([0-9]{5,20})", re.ASCII | re.IGNORECASE)
_TYPE = re.compile(r";(?:type=)?\"?(home|work|cell|mobile|main|fax|pager|other)\b", re.IGNORECASE)


def read_card(card: object, display_name: object = None) -> dict[str, Any]:
    """`{name, organisation, phones: [{number, type, wa_id}], emails: [{address, type}]}`, without missing fields."""
    found: dict[str, Any] = {}
    if isinstance(display_name, str) and display_name.strip():
        found["name"] = display_name.strip()[:MAX_VALUE_CHARS]
    phones: list[dict[str, str]] = []
    emails: list[dict[str, str]] = []
    for name, parameters, value in _lines(card):
        match name:
            case "FN":
                found.setdefault("name", value)
            case "ORG":
                found.setdefault("organisation", value.strip(";").replace(";", ", "))
            case "TEL" if len(phones) < MAX_ENTRIES:
                phones.append(_phone(parameters, value))
            case "EMAIL" if len(emails) < MAX_ENTRIES:
                emails.append({"address": value} | _type(parameters))
    return found | ({"phones": phones} if phones else {}) | ({"emails": emails} if emails else {})


def _phone(parameters: str, value: str) -> dict[str, str]:
    wa_id = _WA_ID.search(parameters)
    return {"number": value.removeprefix("tel:")} | _type(parameters) | ({"wa_id": wa_id[1]} if wa_id else {})


def _type(parameters: str) -> dict[str, str]:
    found = _TYPE.search(parameters)
    return {"type": found[1].lower()} if found else {}


def _lines(card: object) -> list[tuple[str, str, str]]:
    """Name, parameters and value of each line that has a value."""
    if not isinstance(card, str):
        return []
    unfolded = re.sub(r"\r?\n[ \t]", "", card[:MAX_CARD_CHARS])
    found = []
    for line in unfolded.splitlines():
        match = _LINE.match(line[: 8 * MAX_VALUE_CHARS])
        if match is None:
            continue
        value = _value(match["parameters"], match["value"])
        if value:
            found.append((match["name"].upper(), match["parameters"], value))
    return found


def _value(parameters: str, value: str) -> str:
    if "QUOTED-PRINTABLE" in parameters.upper():
        value = quopri.decodestring(value.encode()).decode(errors="replace")
    unescaped = _ESCAPED.sub(lambda found: "\n" if found[1] in "nN" else found[1], value)
    return " ".join(unescaped.split())[:MAX_VALUE_CHARS]
