"""`messages.content`: what a message says beyond its text, typed, one shape per kind.

`docs/kinds.md`, "Content", lists the shapes. Decides which fields of WAProto become which facts, and which lines they
add to the text. Everything is the sender's claim; values of a wrong type or out of range are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from worker.ingest.rules.fields import (
    MAX_ENTRIES,
    Facts,
    Reader,
    as_enum,
    as_flag,
    as_number,
    as_text,
    as_thousandth,
    as_time,
    at,
    each,
    items,
    some,
    take,
    within,
)
from worker.ingest.rules.vcard import read_card

Json = Mapping[str, Any]

DAY_S = 86_400
MAX_JSON_CHARS = 64 * 1024  # of the JSON inside a native flow's button


def facts_of(field: str, body: Json) -> Facts | None:
    """The facts of one content; None if there are none."""
    read = _READERS.get(field)
    facts = read(body) if read is not None else None
    return facts or None


def lines_of(facts: Facts) -> list[str]:
    """Lines for the text, so that it does not lack phone numbers, order lines, coordinates or times."""
    return [
        *(_card_line(card) for card in facts.get("contacts", ())),
        *(_order_line(item) for item in facts.get("items", ())),
        *([f"{facts['latitude']:.6f}, {facts['longitude']:.6f}"] if {"latitude", "longitude"} <= facts.keys() else []),
        *([str(facts["starts_at"])] if "starts_at" in facts else []),
    ]


def lasting(seconds: float) -> str:
    """A duration in words: 7 days, 24 hours, 90 seconds."""
    for unit, size in (("day", DAY_S), ("hour", 3600), ("second", 1)):
        if seconds >= size and seconds % size == 0 and (unit != "day" or seconds > size):
            return f"{seconds // size:g} {unit}{'' if seconds == size else 's'}"
    return f"{seconds:g} seconds"


def disappearing(facts: Facts) -> str:
    """The sentence for turning disappearing messages on or off."""
    seconds = facts.get("expires_after_s")
    return f"New messages disappear after {lasting(seconds)}." if seconds else "New messages no longer disappear."


def switch_facts(body: Json) -> Facts:
    """Disappearing messages turned on or off by a message; groups get a notice instead."""
    seconds = as_number(body.get("ephemeralExpiration"))
    return {"notice": "ephemeral"} | ({"expires_after_s": seconds} if seconds is not None and seconds > 0 else {})


def _card_line(card: Facts) -> str:
    reached = [phone["number"] for phone in card.get("phones", ())]
    reached += [email["address"] for email in card.get("emails", ())]
    return ": ".join(part for part in (card.get("name"), ", ".join(reached)) if part)


def _order_line(item: Facts) -> str:
    amount = f"{item['amount']:g} {item.get('currency', '')}".strip() if "amount" in item else None
    named = " x ".join(str(part) for part in (item.get("quantity"), item.get("name")) if part is not None)
    return ", ".join(part for part in (named, amount) if part)


# One function per kind


def _link(body: Json) -> Facts:
    link = take(body, url=("matchedText", as_text), title=("title", as_text), description=("description", as_text))
    return {"link": link} if "url" in link else {}


def _contact(body: Json) -> Facts:
    return some("contacts", [card] if (card := read_card(body.get("vcard"), body.get("displayName"))) else [])


def _contacts(body: Json) -> Facts:
    cards = (item for item in items(body, "contacts") if isinstance(item, Mapping))
    return some("contacts", [card for item in cards if (card := read_card(item.get("vcard"), item.get("displayName")))])


def _location(body: object) -> Facts:
    return take(
        body,
        latitude=("degreesLatitude", within(90)),
        longitude=("degreesLongitude", within(180)),
        name=("name", as_text),
        address=("address", as_text),
        url=("url", as_text),
        comment=("comment", as_text),
        accuracy_m=("accuracyInMeters", as_number),
        speed_mps=("speedInMps", as_number),
        heading_deg=("degreesClockwiseFromMagneticNorth", as_number),
        sequence=("sequenceNumber", as_number),
    )


def _poll(body: Json) -> Facts:
    options = [name for item in items(body, "options") if (name := as_text(at(item, "optionName")))]
    facts = take(
        body,
        question=("name", as_text),
        selectable=("selectableOptionsCount", as_number),
        type=("pollType", as_enum),
        answer=("correctAnswer.optionName", as_text),
        ends_at=("endTime", as_time),
    )
    return facts | some("options", options)


def _poll_result(body: Json) -> Facts:
    votes = each(body, "pollVotes", option=("optionName", as_text), votes=("optionVoteCount", as_number))
    return take(body, question=("name", as_text)) | some("results", votes)


def _event(body: Json) -> Facts:
    facts = take(
        body,
        name=("name", as_text),
        description=("description", as_text),
        starts_at=("startTime", as_time),
        ends_at=("endTime", as_time),
        join_link=("joinLink", as_text),
        canceled=("isCanceled", as_flag),
        guests_allowed=("extraGuestsAllowed", as_flag),
        is_call=("isScheduleCall", as_flag),
    )
    place = _location(body.get("location"))
    return facts | ({"location": place} if place else {})


def _order(body: Json) -> Facts:
    return take(
        body,
        order_id=("orderId", as_text),
        title=("orderTitle", as_text),
        message=("message", as_text),
        item_count=("itemCount", as_number),
        status=("status", as_enum),
        seller=("sellerJid", as_text),
        total=("totalAmount1000", as_thousandth),
        currency=("totalCurrencyCode", as_text),
    )


def _product(body: Json) -> Facts:
    return take(
        body,
        product_id=("product.productId", as_text),
        title=("product.title", as_text),
        description=("product.description", as_text),
        currency=("product.currencyCode", as_text),
        price=("product.priceAmount1000", as_thousandth),
        sale_price=("product.salePriceAmount1000", as_thousandth),
        retailer_id=("product.retailerId", as_text),
        url=("product.url", as_text),
        catalogue=("catalog.title", as_text),
        seller=("businessOwnerJid", as_text),
    )


def _payment(body: Json) -> Facts:
    return take(
        body,
        amount=("amount1000", as_thousandth),
        currency=("currencyCodeIso4217", as_text),
        requested_from=("requestFrom", as_text),
        expires_at=("expiryTimestamp", as_time),
        service=("serviceType", as_enum),
        note=("note", as_text),
    )


def _buttons(body: Json) -> Facts:
    return some("buttons", each(body, "buttons", id=("buttonId", as_text), text=("buttonText.displayText", as_text)))


def _list(body: Json) -> Facts:
    row = {"id": ("rowId", as_text), "title": ("title", as_text), "description": ("description", as_text)}
    sections = [
        take(section, title=("title", as_text)) | some("rows", each(section, "rows", **row))
        for section in items(body, "sections")
    ]
    products = [
        take(section, title=("title", as_text)) | some("rows", each(section, "products", id=("productId", as_text)))
        for section in items(body, "productListInfo.productSections")
    ]
    return take(body, button=("buttonText", as_text)) | some(
        "sections", [section for section in sections + products if section]
    )


def _template(body: Json) -> Facts:
    for place in ("hydratedTemplate", "hydratedFourRowTemplate"):
        buttons = [
            found
            for item in items(body, f"{place}.hydratedButtons")
            for sort in ("quickReplyButton", "urlButton", "callButton")
            if (
                found := take(
                    at(item, sort),
                    id=("id", as_text),
                    text=("displayText", as_text),
                    url=("url", as_text),
                    phone=("phoneNumber", as_text),
                )
            )
        ]
        if buttons:
            return {"buttons": buttons}
    return _interactive(_mapping(body.get("interactiveMessageTemplate")))


def _interactive(body: Json) -> Facts:
    cards = [
        card
        for item in items(body, "carouselMessage.cards")
        if (
            card := take(
                item, title=("header.title", as_text), text=("body.text", as_text), footer=("footer.text", as_text)
            )
            | _flow(item)
        )
    ]
    return _flow(body) | some("cards", cards)


def _flow(body: object) -> Facts:
    """Buttons of a native flow. Their parameters are JSON in a string; those of an order contain its lines."""
    buttons: list[Facts] = []
    ordered: list[Facts] = []
    for button in items(body, "nativeFlowMessage.buttons"):
        parameters = _parsed(at(button, "buttonParamsJson"))
        shown = {
            "text": ("display_text", as_text),
            "id": ("id", as_text),
            "url": ("url", as_text),
            "phone": ("phone_number", as_text),
        }
        buttons.append(take(button, name=("name", as_text)) | take(parameters, **shown))
        ordered += _order_items(parameters)
    return some("buttons", [button for button in buttons if button]) | some("items", ordered[:MAX_ENTRIES])


def _order_items(parameters: object) -> Iterator[Facts]:
    currency = take(parameters, currency=("currency", as_text))
    for item in items(parameters, "order.items"):
        facts = take(
            item, name=("name", as_text), quantity=("quantity", as_number), product_id=("retailer_id", as_text)
        )
        value, offset = as_number(at(item, "amount.value")), as_number(at(item, "amount.offset")) or 1
        amount = {"amount": value / offset} if value is not None and offset > 0 else {}
        if facts or amount:
            yield facts | amount | (currency if amount else {})


def _parsed(text: object) -> object:
    if not isinstance(text, str) or len(text) > MAX_JSON_CHARS:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _mapping(value: object) -> Json:
    return value if isinstance(value, Mapping) else {}


def _call(body: Json) -> Facts:
    people = each(body, "participants", who=("jid", as_text), outcome=("callOutcome", as_enum))
    facts = take(
        body,
        video=("isVideo", as_flag),
        outcome=("callOutcome", as_enum),
        duration_s=("durationSecs", as_number),
        type=("callType", as_enum),
        starts_at=("scheduledTimestampMs", as_time),
        title=("title", as_text),
    )
    return facts | some("participants", people)


def _reader(**wanted: tuple[str, Reader]) -> Callable[[Json], Facts]:
    return lambda body: take(body, **wanted)


_READERS: dict[str, Callable[[Json], Facts]] = {
    "extendedTextMessage": _link,
    "documentMessage": _reader(title=("title", as_text), pages=("pageCount", as_number)),
    "stickerMessage": _reader(
        animated=("isAnimated", as_flag), lottie=("isLottie", as_flag), label=("accessibilityLabel", as_text)
    ),
    "stickerPackMessage": _reader(
        name=("name", as_text), publisher=("publisher", as_text), description=("packDescription", as_text)
    ),
    "albumMessage": _reader(images=("expectedImageCount", as_number), videos=("expectedVideoCount", as_number)),
    "contactMessage": _contact,
    "contactsArrayMessage": _contacts,
    "locationMessage": _location,
    "liveLocationMessage": _location,
    "pollCreationMessage": _poll,
    "pollCreationMessageV2": _poll,
    "pollCreationMessageV3": _poll,
    "pollCreationMessageV5": _poll,
    "pollResultSnapshotMessage": _poll_result,
    "pollResultSnapshotMessageV3": _poll_result,
    "eventMessage": _event,
    "callLogMesssage": _call,
    "scheduledCallCreationMessage": _call,
    "bcallMessage": _reader(type=("mediaType", as_enum), title=("caption", as_text)),
    "orderMessage": _order,
    "productMessage": _product,
    "invoiceMessage": _payment,
    "sendPaymentMessage": _payment,
    "requestPaymentMessage": _payment,
    "paymentInviteMessage": _payment,
    "buttonsMessage": _buttons,
    "buttonsResponseMessage": _reader(id=("selectedButtonId", as_text), text=("selectedDisplayText", as_text)),
    "listMessage": _list,
    "listResponseMessage": _reader(id=("singleSelectReply.selectedRowId", as_text), text=("title", as_text)),
    "templateMessage": _template,
    "templateButtonReplyMessage": _reader(id=("selectedId", as_text), text=("selectedDisplayText", as_text)),
    "interactiveMessage": _interactive,
    "interactiveResponseMessage": _reader(
        name=("nativeFlowResponseMessage.name", as_text), text=("body.text", as_text)
    ),
    "groupInviteMessage": _reader(
        group=("groupJid", as_text),
        name=("groupName", as_text),
        code=("inviteCode", as_text),
        expires_at=("inviteExpiration", as_time),
    ),
    "newsletterAdminInviteMessage": _reader(newsletter=("newsletterJid", as_text), name=("newsletterName", as_text)),
    "newsletterFollowerInviteMessageV2": _reader(
        newsletter=("newsletterJid", as_text), name=("newsletterName", as_text)
    ),
    "pinInChatMessage": _reader(type=("type", as_enum)),
    "keepInChatMessage": _reader(type=("keepType", as_enum)),
}
