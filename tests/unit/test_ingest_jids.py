"""Addresses, and which one stands for a person."""

from __future__ import annotations

import pytest

from worker.ingest.rules.jids import Person, canonical, parse_jid

PHONE = "4915112345678@s.whatsapp.net"
LID = "1001@lid"


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        (PHONE, PHONE, "as it is"),
        ("4915112345678:12@s.whatsapp.net", PHONE, "a device is not a person"),
        ("4915112345678_1:12@s.whatsapp.net", PHONE, "an agent neither"),
        ("4915112345678@c.us", PHONE, "the server's old name"),
        ("4915112345678:99@hosted", PHONE, "the same account on Meta's servers"),
        ("1001:99@hosted.lid", LID, "the same for a LID"),
        ("1001:5@lid", LID, "a LID has devices too"),
        ("120363000000000001@g.us", "120363000000000001@g.us", "a group"),
        ("4915112345678-1500000000@g.us", "4915112345678-1500000000@g.us", "a group of the old form"),
        ("867051314767696@bot", "867051314767696@bot", "a bot"),
        ("status@broadcast", "status@broadcast", "the status list"),
        ("", None, "nothing"),
        ("1001", None, "no server"),
        ("@lid", None, "no user"),
        ("1001@", None, "an empty server"),
        ("a@b@lid", None, "two at-signs"),
        ("1001@lid\n", None, "a line's end is not part of a name"),
        ("1001\x00@lid", None, "a NUL byte"),
        ("\u0661\u0660\u0660\u0661@lid", None, "digits of another script would be another person who looks the same"),
        ("9" * 65 + "@lid", None, "longer than any address"),
        ("1001:123456@lid", None, "no device has that number"),
        (1001, None, "not a text"),
        (None, None, "missing"),
    ],
)
def test_an_address_is_brought_to_one_form(text: object, expected: str | None, why: str) -> None:
    jid = parse_jid(text)
    assert (str(jid) if jid else None) == expected, why


@pytest.mark.parametrize(
    ("first", "second", "lids", "expected", "why"),
    [
        (LID, PHONE, {}, Person(sender=LID, alt=PHONE), "a group addressed by LID"),
        (PHONE, LID, {}, Person(sender=LID, alt=PHONE), "a group addressed by number: the same person"),
        ("1001:7@lid", PHONE, {}, Person(sender=LID, alt=PHONE), "from a second device: the same person"),
        (LID, None, {}, Person(sender=LID, alt=None), "the number is not known"),
        (PHONE, None, {}, Person(sender=PHONE, alt=None), "the LID is not known"),
        (PHONE, None, {PHONE: LID}, Person(sender=LID, alt=PHONE), "the LID was learned before"),
        (PHONE, "2002@lid", {PHONE: LID}, Person(sender="2002@lid", alt=PHONE), "the stanza knows better than memory"),
        ("867051314767696@bot", None, {}, Person(sender="867051314767696@bot", alt=None), "bots have neither"),
        ("120363000000000001@g.us", None, {}, None, "a group is no person"),
        ("nonsense", PHONE, {}, Person(sender=PHONE, alt=None), "one readable form is enough"),
        ("nonsense", None, {}, None, "nobody"),
        (None, None, {}, None, "nobody at all"),
    ],
)
def test_one_person_has_one_canonical_sender(
    first: object, second: object, lids: dict[str, str], expected: Person | None, why: str
) -> None:
    assert canonical(first, second, lids) == expected, why
