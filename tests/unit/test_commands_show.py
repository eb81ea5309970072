"""The pure parts of the commands: ages, sizes, strangers' text, names of groups, roles of keys, verdict on a schema."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from worker.commands.doctor import OURS, check_clock, check_python, judge_schema, role_named_in
from worker.commands.export import open_folder, write_whole
from worker.commands.groups import resolve
from worker.commands.link import judge
from worker.commands.runtime import WrongArgument
from worker.commands.show import ago, author, content, plain, size
from worker.store import SCHEMA_VERSION
from worker.store.console import ListedGroup
from worker.store.exports import Manifest

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "now"), (5, "5 s ago"), (61, "1 min ago"), (7200, "2 h ago"), (3 * 86_400, "3 days ago"), (-90, "in 1 min")],
)
def test_an_age_is_told_in_one_unit(seconds: float, text: str) -> None:
    assert ago((NOW - timedelta(seconds=seconds)).isoformat(), NOW) == text


def test_what_never_was_is_never() -> None:
    assert ago(None, NOW) == "never"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (25_000_000, "25.0 MB"), (4e14, "400 TB")]
)
def test_a_size_is_told_as_file_managers_do(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("text", "shown", "reason"),
    [
        ("a\x1b[2Jb", "a [2Jb", "no escape sequence"),
        ("a\x9b2Jb", "a 2Jb", "nor its one-byte form"),
        ("a\r\nb\tc", "a b c", "one line"),
        ("exe\u202egpj", "exe gpj", "no reversal"),
        (
            "\N{WOMAN}\u200d\N{PERSONAL COMPUTER} ok",
            "\N{WOMAN}\u200d\N{PERSONAL COMPUTER} ok",
            "joined emoji stay whole",
        ),
    ],
)
def test_strangers_text_cannot_move_the_cursor(text: str, shown: str, reason: str) -> None:
    assert plain(text) == shown, reason


def test_a_long_text_is_cut_with_a_mark() -> None:
    assert plain("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ({"kind": "text", "text": "hi"}, "hi"),
        ({"kind": "image", "text": None, "media_status": "stored"}, "[image]"),
        ({"kind": "image", "text": "look", "media_status": "pending"}, "[image, pending] look"),
        ({"kind": "text", "text": "gone", "revoked_at": "2026-01-01T00:00:00Z"}, "[revoked]"),
        ({"kind": "poll", "text": "Lunch?"}, "[poll] Lunch?"),
    ],
)
def test_a_message_on_one_line(message: dict[str, Any], shown: str) -> None:
    assert content(message) == shown


def test_a_sender_is_called_by_the_best_name() -> None:
    assert author({"from_me": True}) == "me"
    assert author({"push_name": "Ana", "sender": "1@lid"}) == "Ana"
    assert author({"push_name": None, "sender": "4917@s.whatsapp.net"}) == "4917"


def group(id_: int, name: str | None) -> ListedGroup:
    return ListedGroup(id=id_, wa_group_id=f"{id_}0@g.us", name=name, monitor=False, left_at=None, today=0, last=None)


GROUPS = [group(1, "Family"), group(2, "Family trip"), group(3, "Work"), group(4, "work"), group(5, None)]


@pytest.mark.parametrize(
    ("name", "id_", "reason"),
    [
        ("3", 3, "by id"),
        ("50@g.us", 5, "by WhatsApp's id"),
        ("Family", 1, "a whole name before a part of one"),
        ("Work", 3, "the exact case first"),
        ("trip", 2, "a part that only one has"),
        ("FAMILY", 1, "any case"),
    ],
)
def test_a_group_is_found(name: str, id_: int, reason: str) -> None:
    assert resolve(name, GROUPS).id == id_, reason


@pytest.mark.parametrize(("name", "words"), [("WORK", "give the id: 3 (Work), 4 (work)"), ("x", "no group is called")])
def test_a_group_that_is_not_one_is_refused(name: str, words: str) -> None:
    with pytest.raises(WrongArgument) as wrong:
        resolve(name, GROUPS)
    assert words in str(wrong.value)


def token(claims: dict[str, str]) -> str:
    return f"eyJ.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.sig"


@pytest.mark.parametrize(
    ("key", "role"),
    [
        ("sb_secret_x", "service_role"),
        ("sb_publishable_x", "anon"),
        (token({"role": "service_role"}), "service_role"),
        (token({"role": "anon"}), "anon"),
        ("something.else.entirely", None),
        ("opaque", None),
    ],
)
def test_a_keys_role_is_seen_without_asking(key: str, role: str | None) -> None:
    assert role_named_in(key) == role


@pytest.mark.parametrize(
    ("presence", "version", "grade", "words"),
    [
        ({}, SCHEMA_VERSION, "ok", "ours"),
        ({"groups": "other"}, None, "fail", "other tables with our names (groups); they were left alone"),
        (dict.fromkeys(OURS, "missing"), None, "fail", "the database is empty"),
        ({"media": "missing"}, None, "fail", "in part only"),
        ({}, "20200101000000", "fail", "lacks migrations after 20200101000000"),
        ({}, "29990101000000", "note", "update wa-worker"),
    ],
)
def test_the_schema_is_ours_or_it_is_said_what_it_is(
    presence: dict[str, Any], version: str | None, grade: str, words: str
) -> None:
    finding, usable = judge_schema({**dict.fromkeys(OURS, "ours"), **presence}, version)
    assert finding.grade == grade
    assert words in finding.text
    assert usable is (grade != "fail")


def test_a_clock_that_is_far_off_needs_somebody() -> None:
    assert check_clock(NOW, NOW + timedelta(seconds=4)).grade == "ok"
    assert check_clock(NOW, NOW - timedelta(seconds=6)).grade == "fail"


def test_an_old_python_is_named() -> None:
    assert check_python((3, 10, 1)).grade == "fail"
    assert check_python((3, 12, 0)).grade == "ok"


def view(status: str, **detail: Any) -> dict[str, Any]:
    return {"status": status, "detail": detail, "wa_name": "Ana", "wa_number": None}


def test_what_the_qr_command_makes_of_a_row() -> None:
    later, before = (NOW + timedelta(seconds=9)).isoformat(), (NOW - timedelta(seconds=1)).isoformat()
    assert judge(view("connected"), NOW).connected == "Ana"
    assert judge(view("connecting", qr="2@x", expiresAt=later), NOW).code == "2@x"
    assert judge(view("connecting", qr="2@x", expiresAt=before), NOW).say == "Waiting for the next code."
    assert judge(view("disconnected", state="idle", say="Idle."), NOW).resting


# ── export's folder ─────────────────────────────────────────────────────────────────────────────────────────────────

FRESH = Manifest(session="default", wa_group_id="1@g.us")


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "messages.jsonl").write_text("theirs")
    with pytest.raises(WrongArgument, match="not ours"):
        open_folder(tmp_path, FRESH)
    assert (tmp_path / "messages.jsonl").read_text() == "theirs"


def test_a_state_that_cannot_be_read_is_no_fresh_start(tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text("{")
    with pytest.raises(WrongArgument, match="not ours"):
        open_folder(tmp_path, FRESH)


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.jpg", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]
