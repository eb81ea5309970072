"""docs/app-queries.md: each query, as it stands there, is answered from an index, on a real PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from bench import queries as bench
from testkit.users import acting_as
from tests.integration.catalogue import database, migration_files

MESSAGES = 20_000


@pytest.fixture(scope="module")
def filled(postgres: str) -> Iterator[tuple[bench.Connection, dict[str, Any]]]:
    with database(postgres, migration_files()) as connection:
        bench.fill(connection, MESSAGES)
        connection.execute("set search_path = public")
        yield connection, bench.values(connection)


@pytest.fixture(scope="module")
def users(filled: tuple[bench.Connection, dict[str, Any]]) -> tuple[bench.Reader, bench.Reader]:
    return bench.readers(filled[0])


@pytest.mark.parametrize("title", bench.queries())
def test_a_query_reads_what_it_shows(filled: tuple[bench.Connection, dict[str, Any]], title: str) -> None:
    connection, args = filled
    assert rows_read(connection, bench.queries()[title], args) <= 400, "of 20,000"


def rows_read(connection: bench.Connection, query: str, args: dict[str, Any]) -> int:
    """How many rows of messages a query reads, all of them through indexes."""
    row = connection.execute(f"explain (analyze, format json) {query}", args).fetchone()
    assert row is not None
    found = [node for node in bench.nodes(row[0][0]["Plan"]) if node.get("Relation Name") == "messages"]
    assert all("Index" in node["Node Type"] or "Bitmap" in node["Node Type"] for node in found)
    return sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in found)


@pytest.mark.parametrize("title", [title for title in bench.queries() if not title.startswith("Search")])
def test_a_user_s_query_reads_what_it_shows_too(
    filled: tuple[bench.Connection, dict[str, Any]], users: tuple[bench.Reader, bench.Reader], title: str
) -> None:
    """Of a member of one group only the queries that name a group: the others pass what the member does not see.

    The planner does not know how many groups a user has. With so few messages it rather sorts a group's pictures.
    """
    connection, _ = filled
    query = bench.queries()[title]
    for reader in users if re.search("group|chat", query) else users[:1]:
        with acting_as(connection, reader.user):
            assert rows_read(connection, reader.query(query), reader.values) <= 1000, reader


def test_every_query_names_an_index_that_exists(filled: tuple[bench.Connection, dict[str, Any]]) -> None:
    connection, _ = filled
    existing = {row[0] for row in connection.execute("select indexname from pg_indexes where schemaname = 'public'")}
    named = bench.indexes()
    assert len(named) == len(bench.queries())
    assert set(named) <= existing


@pytest.mark.parametrize(("title", "index"), list(zip(bench.queries(), bench.indexes(), strict=True)))
def test_a_query_is_answered_from_the_index_that_the_page_names(
    filled: tuple[bench.Connection, dict[str, Any]], title: str, index: str
) -> None:
    """Of `changes` and `search_messages` the steps are inside the function; `docs/app-queries.md` has them in words."""
    connection, args = filled
    plan = bench.plan(connection, bench.queries()[title], args)
    assert index in plan or plan == "function", plan


def test_who_wrote_as_a_function_answers_the_same(filled: tuple[bench.Connection, dict[str, Any]]) -> None:
    connection, args = filled
    (function,) = re.findall(r"```sql\n(create function .*?)```", bench.PAGE.read_text(), re.DOTALL)
    with connection.transaction(force_rollback=True):
        connection.execute(function.encode())
        found = connection.execute("select * from public.who_wrote(%(session)s, %(chat)s)", args).fetchall()
        assert found == connection.execute(bench.queries()["Who wrote in a group"], args).fetchall()
    assert len(found) > 10
