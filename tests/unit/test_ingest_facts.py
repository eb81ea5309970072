"""`messages.content` of each kind, and what it adds to the text."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest

from testkit.stanzas import make_file, make_rules, make_stanza
from worker.ingest.rules.classify import Content, classify
from worker.ingest.rules.normalise import MessageRow, normalise
from worker.ingest.rules.raw import MAX_CONTENT_BYTES, MAX_RAW_BYTES
from worker.ingest.rules.vcard import MAX_ENTRIES, read_card

TARGET = {"remoteJid": "120363000000000001@g.us", "id": "3EB0BB", "participant": "1002@lid"}
START = "2026-12-01T18:00:00.000Z"
CARD = "BEGIN:VCARD\nVERSION:3.0\nFN:Ana Boa\nTEL;type=CELL;waid=491511234567:+49 151 1234567\nEND:VCARD"
ORDER = {
    "currency": "EUR",
    "order": {
        "items": [
            {"name": "Oranges", "quantity": 2, "amount": {"value": 1050, "offset": 100}, "retailer_id": "r1"},
            {"name": "Crate", "amount": {"value": 3, "offset": 1}},
        ]
    },
}


def photo() -> str:
    return "PHOTO;ENCODING=b;TYPE=JPEG:" + base64.b64encode(os.urandom(3200)).decode()


# message → content, text
MESSAGES: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str | None]] = {
    "a link": (
        {"extendedTextMessage": {"text": "see https://a.b", "matchedText": "https://a.b", "title": "A"}},
        {"link": {"url": "https://a.b", "title": "A"}},
        "see https://a.b",
    ),
    "a text without a link": ({"extendedTextMessage": {"text": "hi", "title": "A"}}, None, "hi"),
    "a contact": (
        {"contactMessage": {"displayName": "Ana", "vcard": CARD}},
        {
            "contacts": [
                {"name": "Ana", "phones": [{"number": "+49 151 1234567", "type": "cell", "wa_id": "491511234567"}]}
            ]
        },
        "Ana: +49 151 1234567",
    ),
    "contacts": (
        {"contactsArrayMessage": {"displayName": "2 contacts", "contacts": [{"vcard": CARD}, {"displayName": "Ben"}]}},
        {
            "contacts": [
                {"name": "Ana Boa", "phones": [{"number": "+49 151 1234567", "type": "cell", "wa_id": "491511234567"}]},
                {"name": "Ben"},
            ]
        },
        "Ana Boa: +49 151 1234567\nBen",
    ),
    "a place": (
        {
            "locationMessage": {
                "degreesLatitude": 52.5,
                "degreesLongitude": -13.4,
                "name": "Harbour",
                "address": "Quay 3",
            }
        },
        {"latitude": 52.5, "longitude": -13.4, "name": "Harbour", "address": "Quay 3"},
        "Harbour\nQuay 3\n52.500000, -13.400000",
    ),
    "a place that cannot be": (
        {"locationMessage": {"degreesLatitude": 520.5, "degreesLongitude": "x", "name": "Nowhere"}},
        {"name": "Nowhere"},
        "Nowhere",
    ),
    "a place that moves": (
        {
            "liveLocationMessage": {
                "degreesLatitude": 1.0,
                "degreesLongitude": 2.0,
                "sequenceNumber": "7",
                "speedInMps": 1.5,
            }
        },
        {"latitude": 1.0, "longitude": 2.0, "sequence": 7, "speed_mps": 1.5},
        "1.000000, 2.000000",
    ),
    "a poll": (
        {
            "pollCreationMessageV3": {
                "name": "When?",
                "options": [{"optionName": "Mon"}, {"optionName": "Tue"}, {}],
                "selectableOptionsCount": 1,
            }
        },
        {"question": "When?", "options": ["Mon", "Tue"], "selectable": 1},
        "When?\nMon\nTue",
    ),
    "a poll's result": (
        {"pollResultSnapshotMessage": {"name": "When?", "pollVotes": [{"optionName": "Mon", "optionVoteCount": "3"}]}},
        {"question": "When?", "results": [{"option": "Mon", "votes": 3}]},
        "When?\nMon",
    ),
    "an event": (
        {
            "eventMessage": {
                "name": "Feast",
                "startTime": "1796148000",
                "isCanceled": False,
                "location": {"name": "Barn", "degreesLatitude": 1.0, "degreesLongitude": 2.0},
            }
        },
        {
            "name": "Feast",
            "starts_at": START,
            "canceled": False,
            "location": {"name": "Barn", "latitude": 1.0, "longitude": 2.0},
        },
        f"Feast\nBarn\n{START}",
    ),
    "an order": (
        {
            "orderMessage": {
                "orderId": "7",
                "orderTitle": "Order 7",
                "itemCount": 2,
                "totalAmount1000": "12500",
                "totalCurrencyCode": "EUR",
                "status": "INQUIRY",
                "token": "secret",
            }
        },
        {"order_id": "7", "title": "Order 7", "item_count": 2, "total": 12.5, "currency": "EUR", "status": "inquiry"},
        "Order 7",
    ),
    "an order with its lines": (
        {
            "interactiveMessage": {
                "body": {"text": "Your order"},
                "nativeFlowMessage": {"buttons": [{"name": "review_and_pay", "buttonParamsJson": json.dumps(ORDER)}]},
            }
        },
        {
            "buttons": [{"name": "review_and_pay"}],
            "items": [
                {"name": "Oranges", "quantity": 2, "product_id": "r1", "amount": 10.5, "currency": "EUR"},
                {"name": "Crate", "amount": 3.0, "currency": "EUR"},
            ],
        },
        "Your order\n2 x Oranges, 10.5 EUR\nCrate, 3 EUR",
    ),
    "parameters that are no JSON": (
        {"interactiveMessage": {"nativeFlowMessage": {"buttons": [{"name": "x", "buttonParamsJson": "[" * 60_000}]}}},
        {"buttons": [{"name": "x"}]},
        None,
    ),
    "a product": (
        {
            "productMessage": {
                "product": {"productId": "1", "title": "Crate", "priceAmount1000": "3500", "currencyCode": "EUR"}
            }
        },
        {"product_id": "1", "title": "Crate", "price": 3.5, "currency": "EUR"},
        "Crate",
    ),
    "money asked for": (
        {"requestPaymentMessage": {"amount1000": "1000", "currencyCodeIso4217": "INR", "requestFrom": "1@lid"}},
        {"amount": 1.0, "currency": "INR", "requested_from": "1@lid"},
        None,
    ),
    "a list": (
        {
            "listMessage": {
                "title": "T",
                "buttonText": "Choose",
                "sections": [{"title": "S", "rows": [{"rowId": "1", "title": "R"}]}],
            }
        },
        {"button": "Choose", "sections": [{"title": "S", "rows": [{"id": "1", "title": "R"}]}]},
        "T",
    ),
    "a template": (
        {
            "templateMessage": {
                "hydratedTemplate": {"hydratedButtons": [{"urlButton": {"displayText": "Go", "url": "https://a"}}]}
            }
        },
        {"buttons": [{"text": "Go", "url": "https://a"}]},
        None,
    ),
    "a carousel": (
        {"interactiveMessage": {"carouselMessage": {"cards": [{"header": {"title": "A"}}, {"body": {"text": "B"}}]}}},
        {"cards": [{"title": "A"}, {"text": "B"}]},
        None,
    ),
    "a call": (
        {"callLogMesssage": {"isVideo": True, "callOutcome": "MISSED", "participants": [{"jid": "1@lid"}]}},
        {"video": True, "outcome": "missed", "participants": [{"who": "1@lid"}]},
        None,
    ),
    "an invitation": (
        {"groupInviteMessage": {"groupJid": "1@g.us", "groupName": "G", "inviteExpiration": "1796148000"}},
        {"group": "1@g.us", "name": "G", "expires_at": START},
        "G",
    ),
    "an album": ({"albumMessage": {"expectedImageCount": 3}}, {"images": 3}, None),
    "a comment has its content's": (
        {
            "commentMessage": {
                "targetMessageKey": TARGET,
                "message": {"contactMessage": {"displayName": "Ana", "vcard": CARD}},
            }
        },
        {
            "contacts": [
                {"name": "Ana", "phones": [{"number": "+49 151 1234567", "type": "cell", "wa_id": "491511234567"}]}
            ]
        },
        "Ana: +49 151 1234567",
    ),
    "an image says nothing more": ({"imageMessage": make_file(caption="look")}, None, "look"),
    "lists that are none": (
        {"pollCreationMessage": {"name": 7, "options": {"optionName": "x"}, "selectableOptionsCount": float("nan")}},
        None,
        None,
    ),
}


@pytest.mark.parametrize(("message", "facts", "text"), MESSAGES.values(), ids=MESSAGES.keys())
def test_the_facts_and_the_text_of_a_message(
    message: dict[str, Any], facts: dict[str, Any] | None, text: str | None
) -> None:
    content = classify(message)
    assert isinstance(content, Content)
    assert (content.facts, content.text) == (facts, text)


def row_of(message: dict[str, Any]) -> MessageRow:
    row = normalise(make_stanza(message), make_rules())
    assert isinstance(row, MessageRow)
    return row


def test_a_card_with_a_picture_keeps_its_number() -> None:
    card = f"BEGIN:VCARD\nFN:Ana\nTEL:+49 151 1234567\n{photo()}\nEND:VCARD"
    row = row_of({"contactMessage": {"displayName": "Ana", "vcard": card}})
    assert row.content == {"contacts": [{"name": "Ana", "phones": [{"number": "+49 151 1234567"}]}]}
    assert row.text == "Ana: +49 151 1234567"


def test_of_a_hundred_cards_with_pictures_no_number_is_lost_although_raw_is_cut() -> None:
    cards = [
        {"displayName": f"P{n}", "vcard": f"BEGIN:VCARD\nTEL:+4915{n:08}\n{photo()}\nEND:VCARD"} for n in range(100)
    ]
    row = row_of({"contactsArrayMessage": {"contacts": cards}})
    numbers = [f"+4915{n:08}" for n in range(100)]
    assert row.content is not None
    assert [card["phones"][0]["number"] for card in row.content["contacts"]] == numbers
    assert row.text is not None
    assert all(number in row.text for number in numbers)
    assert row.raw["_trimmed"] is True
    assert len(json.dumps(row.raw)) <= MAX_RAW_BYTES


def test_content_is_bounded_and_safe_to_store() -> None:
    rows = [{"rowId": "r\0" * 2000, "title": "\ud800" * 4000} for _ in range(250)]
    row = row_of({"listMessage": {"sections": [{"rows": rows}]}})
    assert row.content is not None
    text = json.dumps(row.content)
    assert len(text) <= MAX_CONTENT_BYTES
    assert row.content["_trimmed"] is True
    assert "\\u0000" not in text
    assert "\\ud800" not in text


def test_what_a_message_is_about_is_in_its_content() -> None:
    row = row_of({"pinInChatMessage": {"key": TARGET, "type": "PIN_FOR_ALL"}})
    assert row.content == {"type": "pin_for_all", "target": {"sender": "1002@lid", "wa_msg_id": "3EB0BB"}}


def test_a_view_once_says_nothing() -> None:
    row = row_of({"viewOnceMessage": {"message": {"imageMessage": make_file(caption="secret")}}})
    assert (row.kind, row.content, row.text) == ("view_once", None, None)


@pytest.mark.parametrize(
    ("card", "expected", "why"),
    [
        ("FN:A\\, B\\nC", {"name": "A, B C"}, "what is escaped, on one line"),
        ("FN;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:=C3=84nne", {"name": "Änne"}, "vCard 2.1"),
        ("ORG:Firm;Sales;", {"organisation": "Firm, Sales"}, "an organisation and its part"),
        ("item1.TEL:1\nitem1.X-ABLabel:Boat", {"phones": [{"number": "1"}]}, "a group, as iPhones write it"),
        ("TEL;VALUE=uri;TYPE=\"voice,home\":tel:+1", {"phones": [{"number": "+1"}]}, "vCard 4.0"),
        ("TEL;WORK:1", {"phones": [{"number": "1", "type": "work"}]}, "a bare type"),
        ("TEL:12\r\n 34", {"phones": [{"number": "1234"}]}, "a folded line"),
        ("EMAIL;TYPE=HOME:a@b.c", {"emails": [{"address": "a@b.c", "type": "home"}]}, "an address"),
        ("TEL:", {}, "no number"),
        ("nonsense", {}, "no line of a card"),
        (None, {}, "no card"),
        (7, {}, "no text"),
        ("\n".join(["TEL:1"] * 1000), {"phones": [{"number": "1"}] * MAX_ENTRIES}, "no end"),
        ("A" + ";" * 100_000 + "\n" + ";a" * 50_000, {}, "parameters without end cost no time"),
    ],
)  # fmt: skip
def test_a_card(card: object, expected: dict[str, Any], why: str) -> None:
    assert read_card(card) == expected, why
