"""The proto that Baileys brings, against our tables: what is new there fails here until it is decided."""

from __future__ import annotations

from collections.abc import Iterator

from testkit.waproto import Field, descriptor
from worker.ingest.rules import content as table
from worker.ingest.rules.raw import BULK_FIELDS, SECRET_FIELDS

# Bytes that are no key: hashes of files, small pictures, ciphertext whose key lies elsewhere, statistics.
HARMLESS_BYTES = frozenset(
    {
        "jpegThumbnail", "pngThumbnail", "thumbnail", "thumbData", "attachmentJpegThumbnail",
        "inviteLinkParentGroupThumbnailV2", "waveform", "encPayload", "encIv", "conversionData", "ctwaPayload",
        "internalMetadata", "aiConversationContext", "aiPsiMetadata", "data", "signature", "certificateChain",
        "countryBlocklist", "encodedMappingPayload", "keyId",
    }
)  # fmt: skip


def test_every_field_of_message_is_decided() -> None:
    decided = (
        set(table.CONTENT) | table.WRAPPERS | table.ENVELOPE | table.KEY_SHARES | table.SYNC_NOISE | table.READ_BY_NAME
    )
    assert set(descriptor().messages["Message"].fields) == decided


def test_every_field_is_decided_once() -> None:
    groups = [
        set(table.CONTENT),
        table.WRAPPERS,
        table.ENVELOPE,
        table.KEY_SHARES,
        table.SYNC_NOISE,
        table.READ_BY_NAME,
    ]
    assert sum(len(group) for group in groups) == len(set().union(*groups))


def test_every_wrapper_wraps_a_message_and_nothing_else_does() -> None:
    found = descriptor()
    wrapping = {
        field.name
        for field in found.messages["Message"].fields.values()
        if (type_ := found.resolve(field.type, "Message")) in found.messages
        and "message" in found.messages[str(type_)].fields
        and found.messages[str(type_)].fields["message"].type == "Message"
    }
    assert wrapping == table.WRAPPERS | {"commentMessage"}  # a comment is a kind of its own


def test_every_type_of_protocol_message_is_decided_once() -> None:
    names = set(descriptor().enums["Message.ProtocolMessage.Type"])
    assert set(table.PROTOCOL_ROWS) | set(table.PROTOCOL_NOISE) == names
    assert not set(table.PROTOCOL_ROWS) & set(table.PROTOCOL_NOISE)


def test_every_path_of_the_table_exists_in_the_proto() -> None:
    for field, rule in table.CONTENT.items():
        paths = [path for group in rule.text for path in group] + list(rule.within) + [rule.target or ""]
        for path in filter(None, paths):
            assert _exists(field, path), f"{field}: {path}"


def test_every_file_of_the_table_has_a_media_key() -> None:
    found = descriptor()
    for field in (name for name, rule in table.CONTENT.items() if rule.media):
        type_ = found.resolve(found.messages["Message"].fields[field].type, "Message")
        assert {"mediaKey", "directPath", "fileEncSha256"} <= set(found.messages[str(type_)].fields), field


def test_every_field_with_bytes_is_decided() -> None:
    """A new field that may hold a key does not slip into `raw`."""
    undecided = {
        field.name
        for field in _reachable()
        if field.type == "bytes" and field.name not in HARMLESS_BYTES and not field.name.endswith("Sha256")
    }
    assert undecided - SECRET_FIELDS - BULK_FIELDS == set()


def test_every_secret_field_still_exists() -> None:
    names = {field.name for message in descriptor().messages.values() for field in message.fields.values()}
    assert names >= SECRET_FIELDS | BULK_FIELDS


def _exists(field: str, path: str) -> bool:
    found = descriptor()
    scope, current = "Message", found.messages["Message"].fields[field]
    for name in path.replace(".*", "").split("."):
        type_ = found.resolve(current.type, scope)
        if type_ not in found.messages or name not in found.messages[type_].fields:
            return False
        scope, current = type_, found.messages[type_].fields[name]
    return True


def _reachable() -> Iterator[Field]:
    found = descriptor()
    seen: set[str] = set()
    waiting = ["Message"]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for field in found.messages[name].fields.values():
            if field.name in SECRET_FIELDS:
                continue
            yield field
            type_ = found.resolve(field.type, name)
            if type_ in found.messages:
                waiting.append(str(type_))
