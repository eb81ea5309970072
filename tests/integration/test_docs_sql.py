"""The SQL of docs/ runs as it stands, on a real PostgreSQL with rows of each sort; each other example has its test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from testkit.processes import ROOT
from testkit.users import STAND_IN, USERS
from tests.integration.catalogue import database, migration_files
from tests.integration.database import at, message
from tests.integration.pages import code_blocks
from tests.integration.test_sql_races import Connection, batch, call

DOCS = ROOT / "docs"
# Pages whose examples have a test of their own, which reads them from the page.
TESTED_BY = {
    ("app-queries.md", "js"): "test_app_queries_clients.py",
    ("app-queries.md", "python"): "test_app_queries_clients.py",
    ("app-queries.md", "sql"): "test_app_queries.py",
    ("coverage.md", "js"): "test_web_app_page.py",
    ("coverage.md", "python"): "test_web_app_page.py",
    ("leaving.md", "sql"): "test_leaving_page.py",
    ("passkey.md", "js"): "../unit/test_passkey.py",
    ("users.md", "js"): "test_users_page.py",
    ("users.md", "python"): "test_users_page.py",
    ("web-app.md", "js"): "test_web_app_page.py",
    ("web-app.md", "python"): "test_web_app_page.py",
    ("web-app.md", "ts"): "test_sql_types.py",
}
USER = "9f1f7f0e-0f67-4b0e-9f0a-2a3f5b1c7d11"
GROUP = "120363012345678901@g.us"  # of docs/coverage.md
GROUP_ID, POLL_ID = 7, 42  # of docs/schema.md and docs/kinds.md
NOW = datetime.now(UTC).replace(microsecond=0)


def ago(seconds: int) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


def sentences(page: Path) -> list[str]:
    """Whole statements within the text: `select … from …`, `delete from …`."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return [span for span in spans if re.match(r"(select \S+[ (].*|insert into|delete from|update|alter|drop) ", span)]


def statements() -> list[Any]:
    found = []
    for page in sorted(DOCS.glob("*.md")):
        if (page.name, "sql") not in TESTED_BY:
            blocks = code_blocks(page.read_text(), "sql")
            whole = [one for block in blocks for one in re.split(r";\s*$", block, flags=re.MULTILINE)]
            found += [pytest.param(one, id=f"{page.name}: {one.strip()[:40]}") for one in whole if one.strip()]
        if page.name != "leaving.md":
            found += [pytest.param(one, id=f"{page.name}: {one[:40]}") for one in sentences(page)]
    return found


@pytest.fixture(scope="module")
def filled(postgres: str) -> Iterator[Connection]:
    """A session with the names and numbers of the pages, and something of each sort in it."""
    with database(postgres, migration_files()) as connection:
        connection.execute(STAND_IN.read_bytes())
        connection.execute(USERS.read_bytes())
        connection.execute("insert into auth.users (id) values (%s)", (USER,))
        call(connection, "wa_lease_acquire", "default", "a", 60)
        call(connection, "wa_begin_epoch", "default", 1)
        connection.execute(
            "insert into public.groups (id, session_id, wa_group_id, name, monitor) overriding system value "
            "values (%s, 'default', %s, 'Family', true)",
            (GROUP_ID, GROUP),
        )
        connection.execute("select setval('public.messages_id_seq', %s, false)", (POLL_ID,))
        vote: dict[str, Any] = {"choices": ["b"], "about": POLL_ID}
        rows = [
            message("P", chat_id=GROUP, ts=ago(30), kind="poll", content={"question": "?", "options": ["a", "b"]}),
            message("V", chat_id=GROUP, ts=ago(20), kind="poll_vote", sender="ben@lid", content=vote),
            message("N", chat_id=GROUP, ts=ago(10), kind="system", text="Ana changed the group's name"),
        ]
        joined = {"wa_group_id": GROUP, "at": at(0), "what": "joined", "members": [{"member": "ana@lid", "role": None}]}
        audits = [{"event": "error", "payload": {"code": "MEDIA_EXPIRED", "msg": "", "ctx": {}}}]
        call(connection, "wa_commit", "default", batch(1, messages=rows, members=[joined], audits=audits))
        connection.execute("set search_path = public")
        yield connection


@pytest.fixture
def connection(filled: Connection) -> Iterator[Connection]:
    with filled.transaction(force_rollback=True):
        yield filled


def run(connection: Connection, statement: str) -> list[Any]:
    """What it answers. `:user` is a value of the reader's."""
    statement = re.sub(r"(?<!:):user\b", f"'{USER}'", statement)
    done = connection.execute(statement.replace("%", "%%").encode())
    return done.fetchall() if done.description else []


@pytest.mark.parametrize("statement", statements())
def test_a_statement_of_the_pages_runs(connection: Connection, statement: str) -> None:
    run(connection, statement)


def only(page: str, word: str) -> str:
    """The one statement of a page with this word in it."""
    found = [one for block in code_blocks((DOCS / page).read_text(), "sql") for one in block.split(";") if word in one]
    assert len(found) == 1
    return found[0]


def test_what_the_pages_promise_is_answered(connection: Connection) -> None:
    assert run(connection, only("kinds.md", "poll_votes")) == [("ben@lid", "Ana", ["b"])]
    assert [row[:3] for row in run(connection, only("schema.md", "group_members"))] == [
        ("member", "Ana", "4917@s.whatsapp.net")
    ]
    (answer,) = run(connection, only("coverage.md", "coverage("))[0]
    assert set(answer) == {"complete", "since", "complete_to", "gaps", "gap_count"}
    assert [row[0] for row in run(connection, only("deploy.md", "audit_log"))] == ["MEDIA_EXPIRED"]
    ((name, last, today),) = run(connection, only("deploy.md", "as today"))
    assert (name, last.isoformat(), today) == ("Family", ago(20), 3), "a rename is no message"
    run(connection, only("web-app.md", "delete from messages"))
    assert connection.execute("select count(*) from messages").fetchone() == (3,), "they are newer than the page's date"


def test_a_statement_that_is_wrong_is_seen(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.UndefinedColumn):
        run(connection, "select no_such_column from messages")


def test_every_example_of_the_pages_has_its_test() -> None:
    examples = {
        (page.name, language)
        for page in DOCS.glob("*.md")
        for language in ("js", "python", "ts", "sql")
        if code_blocks(page.read_text(), language)
    }
    by_statement = {(page, language) for page, language in examples if language == "sql"}
    assert examples - by_statement == {place for place in TESTED_BY if place[1] != "sql"}
    for (page, _), test in TESTED_BY.items():
        assert page in (Path(__file__).parent / test).read_text(), test
