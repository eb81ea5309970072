"""docs/app-queries.md: each query, as it stands there, is answered from an index, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from bench import queries as bench

MESSAGES = 20_000


@pytest.fixture(scope="module")
def filled(postgres: str) -> Iterator[tuple[bench.Connection, dict[str, Any]]]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        bench.fill(connection, MESSAGES)
        connection.execute("set search_path = public")
        yield connection, bench.values(connection)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


@pytest.mark.parametrize("title", bench.queries())
def test_a_query_reads_what_it_shows(filled: tuple[bench.Connection, dict[str, Any]], title: str) -> None:
    connection, args = filled
    row = connection.execute(f"explain (analyze, format json) {bench.queries()[title]}", args).fetchone()
    assert row is not None
    found = [node for node in nodes(row[0][0]["Plan"]) if node.get("Relation Name") == "messages"]
    assert all("Index" in node["Node Type"] or "Bitmap" in node["Node Type"] for node in found)
    read = sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in found)
    assert read <= 400, "of 20,000"


def test_every_query_names_an_index_that_exists(filled: tuple[bench.Connection, dict[str, Any]]) -> None:
    connection, _ = filled
    existing = {row[0] for row in connection.execute("select indexname from pg_indexes where schemaname = 'public'")}
    named = bench.indexes()
    assert len(named) == len(bench.queries())
    assert set(named) <= existing
