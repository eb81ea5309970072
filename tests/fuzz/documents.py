"""JSON that a stranger may send: any at all, and shaped by WAProto."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from testkit.waproto import descriptor

ANY_TEXT = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["", "\x00", "\ud800", "a\x00" * 50, "\u202e", "1e400"]
)
ANY_SCALAR = st.none() | st.booleans() | st.integers(min_value=-(2**70), max_value=2**70) | st.floats() | ANY_TEXT
ANY_JSON = st.recursive(
    ANY_SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4)
)
MAX_FUZZ_DEPTH = 4


def proto_json(name: str, depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """JSON of a message type: some of its fields, mostly of the right type."""
    found = descriptor()

    def value(type_: str) -> st.SearchStrategy[Any]:
        full = found.resolve(type_, name)
        if full in found.enums:
            right: st.SearchStrategy[Any] = st.sampled_from(sorted(found.enums[full])) | st.integers(0, 99)
        elif full in found.messages:
            right = st.deferred(lambda: proto_json(full, depth + 1)) if depth < MAX_FUZZ_DEPTH else st.just({})
        elif type_ in ("string", "bytes"):
            right = ANY_TEXT
        elif "64" in type_:
            right = st.integers(-(2**63), 2**64 - 1).map(str)
        elif type_ == "bool":
            right = st.booleans()
        else:
            right = st.integers(0, 2**32 - 1) | st.floats()
        return right if depth > 1 else st.one_of(right, right, right, ANY_JSON)

    fields = list(found.messages[name].fields.values())
    if not fields:
        return st.just({})
    chosen = st.lists(st.sampled_from(fields), max_size=3, unique_by=lambda field: field.name)

    def filled(some: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries(
            {
                field.name: st.lists(value(field.type), max_size=2) if field.repeated else value(field.type)
                for field in some
            }
        )

    return chosen.flatmap(filled)


def one_content(name: str) -> st.SearchStrategy[dict[str, Any]]:
    type_ = descriptor().resolve(descriptor().messages["Message"].fields[name].type, "Message")
    return proto_json(str(type_)).map(lambda body: {name: body})
