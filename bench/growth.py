"""What a message costs in PostgreSQL: `python -m bench.growth [--messages 40000]`.

Commits texts, and then photos, to a PostgreSQL of its own (tests/conftest.py) as the worker does: real payloads through
the rules, 50 messages a batch, with keys for edits and hashes of stanzas; then the search's entries. Prints bytes a
message by table, with all indexes, after a vacuum: what stays, and what goes by itself after one or two weeks. Prints
figures; judges nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
from collections.abc import Callable
from typing import Any

import psycopg

from bench.queries import SESSION, one
from testkit.stanzas import b64, make_file, make_key, make_rules, make_stanza
from tests.conftest import real_postgres
from worker.bridge.protocol import Stanza
from worker.ingest.rules.normalise import MessageRow, normalise
from worker.store.rows import Batch

GROUPS, PEOPLE, BATCH, SECONDS_APART = 20, 300, 50, 30
START_S = 1_790_000_000
# Deleted by the worker (docs/operations.md, "What goes by itself"): keys after a week, hashes after two, done jobs.
FOR_A_WHILE = ("message_secrets", "decrypted_stanzas", "media_jobs")
# A page or a version for each commit, not for each message.
NOT_COUNTED = ("wa_sessions", "audit_log", "wa_session_keys")

Connection = psycopg.Connection[Any]


def word(chance: random.Random) -> str:
    """One of 20,000, the frequent ones far more often, as in a language; two to nine letters."""
    place = int(math.exp(chance.random() * 9.9))
    digest = hashlib.md5(str(place).encode(), usedforsecurity=False).hexdigest()
    return digest.translate(str.maketrans("0123456789", "ghijklmnop"))[: 2 + place % 8]


def words(chance: random.Random, count: int) -> str:
    return " ".join(word(chance) for _ in range(count))


def text(chance: random.Random) -> dict[str, Any]:
    """One to 23 words, twelve in the middle."""
    return {"extendedTextMessage": {"text": words(chance, chance.randint(1, 23)), "contextInfo": {}}}


def photo(chance: random.Random) -> dict[str, Any]:
    """With its thumbnail of 700 to 1,100 bytes; every third has a caption."""
    noise = chance.randbytes
    picture = make_file(
        url=f"https://mmg.whatsapp.net/o1/v/t24/f2/m231/{noise(40).hex()}?ccb=9-4&oh=01_{noise(20).hex()}",
        directPath=f"/o1/v/t24/f2/m231/{noise(40).hex()}?ccb=9-4&oh=01_{noise(20).hex()}&oe=6920&_nc_sid=e6ed6c",
        fileSha256=b64(noise(32)), fileEncSha256=b64(noise(32)), mediaKey=b64(noise(32)), width=1200, height=1600,
        jpegThumbnail=b64(b"\xff\xd8\xff" + noise(chance.randint(700, 1100))),
    )  # fmt: skip
    return {"imageMessage": picture | ({"caption": words(chance, 8)} if chance.random() < 1 / 3 else {})}


def stanza(chance: random.Random, number: int, content: dict[str, Any]) -> Stanza:
    person = min(int(chance.expovariate(1 / 40)), PEOPLE - 1)
    group, name = f"120363{chance.randint(1, GROUPS):012d}@g.us", f"3EB0{chance.randbytes(9).hex().upper()}"
    sender, phone = f"{person + 100_000_000_000_000}@lid", f"{4915110000000 + person}@s.whatsapp.net"
    sent, pushed = START_S + number * SECONDS_APART, f"Person {person}"
    secret = {"messageContextInfo": {"messageSecret": b64(chance.randbytes(32))}}
    return make_stanza(
        content | secret,
        attrs={"id": name, "from": group, "participant": sender, "t": str(sent), "notify": pushed},
        key=make_key(remoteJid=group, id=name, participant=sender, participantAlt=phone),
        arrived_at_ms=sent * 1000,
        hashes=[chance.randbytes(32).hex()],
    )


def row(sent: Stanza, rules: Any) -> dict[str, Any]:
    made = normalise(sent, rules)
    assert isinstance(made, MessageRow), made
    return made.as_json()


def commit(connection: Connection, seq: int, sent: list[Stanza], rules: Any) -> None:
    rows = [row(each, rules) for each in sent]
    batch = Batch(
        fence=1, epoch=1, seq=seq, messages=rows,
        hashes=[each.hashes[0] for each in sent],
        identities=[(each["sender"], each["sender_alt"]) for each in rows],
    )  # fmt: skip
    connection.execute("select public.wa_commit(%s, %s)", (SESSION, json.dumps(batch.as_document())))


def store_files(connection: Connection) -> None:
    """What the downloader leaves: a row for each content, and no job."""
    connection.execute(
        "with made as (insert into public.media (sha256, mime, bytes, width, height, storage_path) "
        "select md5(j.id::text) || md5(j.id::text || 'b'), 'image/jpeg', 150000, 1200, 1600, "
        "md5(j.id::text) || md5(j.id::text || 'b') || '/original.jpg' from public.media_jobs as j "
        "returning id, sha256) "
        "update public.messages as m set media_id = made.id, media_status = 'stored' "
        "from public.media_jobs as j, made "
        "where j.message_id = m.id and made.sha256 = md5(j.id::text) || md5(j.id::text || 'b')"
    )
    connection.execute("delete from public.media_jobs")


def sizes(connection: Connection) -> dict[str, tuple[int, int]]:
    """Bytes of each table with its indexes and its out-of-line values, and of its indexes alone, after a vacuum."""
    connection.execute("vacuum analyze")
    found = connection.execute(
        "select relname, pg_total_relation_size(oid), pg_indexes_size(oid) from pg_class where relkind = 'r' "
        "and relnamespace in ('public'::regnamespace, 'wa'::regnamespace)"
    )
    return {name: (whole, indexes) for name, whole, indexes in found if name not in NOT_COUNTED}


def measure(
    connection: Connection, kind: str, make: Callable[[random.Random], dict[str, Any]], count: int, first: int
) -> None:
    """Commit `count` messages, number `first` and on, and print what they cost."""
    chance = random.Random(kind)  # noqa: S311  # the same texts in each run
    rules = make_rules(monitored=frozenset(f"120363{n:012d}@g.us" for n in range(1, GROUPS + 1)))
    before = sizes(connection)
    for start in range(first, first + count, BATCH):
        sent = [stanza(chance, number, make(chance)) for number in range(start, start + BATCH)]
        commit(connection, start // BATCH + 1, sent, rules)
    store_files(connection)
    while one(connection, "select wa.search_fill(%s, 20000)", SESSION):
        pass
    after = sizes(connection)
    mean = "select round(avg(octet_length(text))) from public.messages where kind = %s"
    costs = {
        name: tuple((now - then) / count for now, then in zip(size, before.get(name, (0, 0)), strict=True))
        for name, size in after.items()
    }
    print(f"\n{kind}, {count:,} of them; the text has {one(connection, mean, kind)} bytes on average\n")
    for name, (cost, indexes) in sorted(costs.items(), key=lambda item: -item[1][0]):
        if cost >= 1:
            note = ", for a while" if name in FOR_A_WHILE else ""
            print(f"  {name:<20} {cost:6.0f} bytes, {indexes:.0f} of them indexes{note}")
    stays = sum(cost for name, (cost, _) in costs.items() if name not in FOR_A_WHILE)
    print(f"  {'stays':<20} {stays:6.0f} bytes a message", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=40_000, help="of each sort")
    count = parser.parse_args().messages // BATCH * BATCH
    with real_postgres() as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select public.wa_lease_acquire(%s, 'bench', 86400)", (SESSION,))
        connection.execute("select public.wa_begin_epoch(%s, 1)", (SESSION,))
        connection.execute(
            "insert into public.groups (session_id, wa_group_id, name, monitor) "
            "select %s, '120363' || lpad(n::text, 12, '0') || '@g.us', 'Group ' || n, true "
            "from generate_series(1, %s) as n",
            (SESSION, GROUPS),
        )
        measure(connection, "text", text, count, 0)
        measure(connection, "image", photo, count, count)


if __name__ == "__main__":
    main()
