"""Reads messages for pages: a page of rows with everything they refer to.

All groups are read in order of arrival (`id`), one group by time (`ts`, `id`): both have an index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from console.database import Database, Row, beyond
from console.parallel import parallel_reads
from console.rules.bubbles import Bubble, make_bubbles, owners, references
from console.rules.contents import FORMER_SHOWN, KINDS_WITH_RAW
from console.rules.people import Names

PAGE = 50
GROUPS_A_READ = 1000  # Supabase's limit of rows per answer
NAMES_MAX = 200
NEAR = 60  # how far apart the rows of one bubble may be for a page to be extended
EDITS = FORMER_SHOWN + 1  # read with a list of messages: one more than it shows
PICTURES = ["image", "video", "gif", "ptv"]
COLUMNS = (
    "id,group_id,wa_msg_id,chat_id,sender,sender_alt,push_name,from_me,ts,received_at,kind,text,file_name,media_status,"
    "parent_id,pending,lost_at,edited_at,revoked_at,revoked_by,revoke_claimed_at,blanked,quoted_id,quoted_msg_id,quoted_sender,album_id,"
    "rendition,rendition_of,"
    "content,mentions,mention_count,forwarded,forward_score,media(sha256,mime,bytes,width,height,duration_s,storage_path),"
    "message_reactions(sender,emoji,at),message_edits(text,at),groups(id,name)"
)
QUOTED_COLUMNS = "id,sender,sender_alt,push_name,from_me,kind,text,file_name,revoked_at,blanked,media_status"


Edge = tuple[int, str | None]  # id and, for one group, ts


@dataclass(frozen=True, kw_only=True)
class Page:
    """Rows, oldest first, with everything they refer to. `more`, `newer`: there are older or newer ones."""

    rows: Sequence[Row] = ()
    more: bool = False
    newer: bool = False
    quoted: dict[int, Row] = field(default_factory=dict)
    names: Names = field(default_factory=Names)

    @property
    def bubbles(self) -> list[Bubble]:
        return make_bubbles(self.rows)


@dataclass(frozen=True, kw_only=True)
class MessageScope:
    """Which messages to read: one session's, of one group or all."""

    session: str
    group: int | None = None

    def narrow(self, query: Any) -> Any:
        """Limit a query to the scope, without renditions: their file is shown with the message they belong to."""
        narrowed = query.eq("session_id", self.session).is_("rendition_of", "null")
        return narrowed if self.group is None else narrowed.eq("group_id", self.group)

    def order(self, query: Any, *, newest_first: bool) -> Any:
        ordered = query if self.group is None else query.order("ts", desc=newest_first)
        return ordered.order("id", desc=newest_first)


async def group_names(database: Database, session: str) -> list[Row]:
    """`id`, `name` and `wa_group_id` of every group, stored ones first, for choosing one."""
    found: list[Row] = []

    def query(client: Any) -> Any:
        listed = client.table("groups").select("id,name,wa_group_id").eq("session_id", session)
        listed = listed.order("monitor", desc=True).order("name").order("id")
        return listed.range(len(found), len(found) + GROUPS_A_READ - 1)

    while True:
        more = await database.read("groups", query)
        found += more
        if len(more) < GROUPS_A_READ:
            return found


async def newest(database: Database, where: MessageScope, limit: int = PAGE, since: int = 0) -> Page:
    """`since`: none that arrived before this message, which bounds the read whatever the planner knows."""

    def query(client: Any) -> Any:
        selected = _listed(client)
        if since or where.group is not None:
            narrowed = where.narrow(selected)
            return where.order(narrowed.gte("id", since) if since else narrowed, newest_first=True).limit(limit + 1)
        # Not `eq`: the planner would walk the primary key, past all messages that other sessions have stored since this
        # one's last. Only messages_session_id has this order.
        narrowed = selected.gte("session_id", where.session).lte("session_id", where.session)
        return where.order(
            narrowed.is_("rendition_of", "null").order("session_id", desc=True), newest_first=True
        ).limit(limit + 1)

    found = await database.read("messages", query)
    return await _page(database, where, found[:limit][::-1], more=len(found) > limit, extend=not since)


async def older(database: Database, where: MessageScope, before: int, limit: int = PAGE) -> Page:
    """The page before a message, which need not exist any more."""
    found = await _beside(database, where, await _edge(database, where, before), "lt", limit + 1)
    return await _page(database, where, found[:limit][::-1], more=len(found) > limit, newer=True)


async def later(database: Database, where: MessageScope, after: int, limit: int = PAGE) -> Page:
    """The page after a message, which need not exist any more."""
    found = await _beside(database, where, await _edge(database, where, after), "gt", limit + 1)
    return await _page(database, where, found[:limit], more=True, rest=found[limit:], extend=False)


async def around(database: Database, where: MessageScope, message: int, limit: int = PAGE) -> Page:
    """A message, with all its earlier texts, among the messages before and after it."""
    edge, half = await _edge(database, where, message), limit // 2
    async with parallel_reads() as reads:
        earlier = reads.start(_beside(database, where, edge, "lt", half + 1))
        found = reads.start(_beside(database, where, edge, "gte", half + 1))
        edits = reads.start(
            database.read(
                "edits", lambda c: c.table("message_edits").select("text,at").eq("message_id", message).order("at")
            )
        )
    rows = [*earlier.value[:half][::-1], *found.value[:half]]
    rows = [row | {"message_edits": edits.value} if row["id"] == message else row for row in rows]
    return await _page(database, where, rows, more=len(earlier.value) > half, rest=found.value[half:])


def _listed(client: Any) -> Any:
    """Rows for a list: of each message only the newest earlier texts, which may be a hundred long ones."""
    edits = {"foreign_table": "message_edits"}
    return client.table("messages").select(COLUMNS).order("at", desc=True, **edits).limit(EDITS, **edits)


async def _beside(database: Database, where: MessageScope, edge: Edge, operator: str, limit: int) -> list[Row]:
    """The rows next to an edge on one side of it, the nearest first."""
    return await database.read(
        "messages",
        lambda c: where.order(
            _beyond(where, where.narrow(_listed(c)), edge, operator), newest_first=operator == "lt"
        ).limit(limit),
    )


async def one(database: Database, session: str, message: int) -> Row | None:
    rows = await database.read(
        "message",
        lambda c: c.table("messages").select(COLUMNS).eq("session_id", session).eq("id", message).limit(1),
    )
    return (await _with_raw(database, rows))[0] if rows else None


async def first_since(database: Database, where: MessageScope, at: str) -> int | None:
    """The id of the first message sent at or after `at`; None if there is none."""
    rows = await database.read(
        "messages",
        lambda c: where.narrow(c.table("messages").select("id")).gte("ts", at).order("ts").order("id").limit(1),
    )
    return int(rows[0]["id"]) if rows else None


async def pictures(database: Database, where: MessageScope, before: int | None, limit: int) -> list[Row]:
    """Stored pictures and films of a group, newest first, before a message if given."""
    edge = None if before is None else await _edge(database, where, before)

    def query(client: Any) -> Any:
        narrowed = where.narrow(client.table("messages").select("id,kind,ts,push_name,text,media(mime)"))
        narrowed = narrowed.not_.is_("media_id", "null").eq("media_status", "stored").in_("kind", PICTURES)
        narrowed = narrowed.is_("revoked_at", "null")
        narrowed = narrowed if edge is None else _beyond(where, narrowed, edge, "lt")
        return where.order(narrowed, newest_first=True).limit(limit)

    return await database.read("gallery", query)


async def _edge(database: Database, where: MessageScope, message: int) -> Edge:
    if where.group is None:
        return message, None
    rows = await database.read(
        "message", lambda c: where.narrow(c.table("messages").select("id,ts")).eq("id", message).limit(1)
    )
    return message, rows[0]["ts"] if rows else None


def _beyond(where: MessageScope, query: Any, edge: Edge, operator: str) -> Any:
    """Limit a query to one side of the edge: `lt`, `gt` or `gte` in the order of `where`."""
    message, ts = edge
    if where.group is None or ts is None:
        return query.filter("id", operator, message)
    return beyond(query, ("ts", ts), ("id", message), operator)


async def _page(
    database: Database,
    where: MessageScope,
    rows: list[Row],
    *,
    more: bool,
    newer: bool = False,
    rest: Sequence[Row] = (),
    extend: bool = True,
) -> Page:
    """`rows`: oldest first. `rest`: the row after them, if there is one. `extend`: do not begin inside a bubble."""
    newer = newer or bool(rest)
    if rows and more and extend:
        rows, more = await _with_heads(database, where, rows)
    if rows and rest and owners(rest[0]) & {row["id"] for row in rows}:
        rows, newer = await _with_parts(database, where, rows)
    rows = await _with_results(database, where.session, await _with_raw(database, rows))
    return Page(rows=rows, more=more, newer=newer, **await _references(database, where, rows))


async def _with_heads(database: Database, where: MessageScope, rows: list[Row]) -> tuple[list[Row], bool]:
    """Add the rows back to the first that has parts among `rows`, if it is near; whether there are older ones."""
    missing = {owner for row in rows for owner in owners(row)} - {row["id"] for row in rows}
    if not missing:
        return rows, True
    before = await _beside(database, where, _edge_of(where, rows[0]), "lt", NEAR + 1)
    heads = [place for place, row in enumerate(before[:NEAR]) if row["id"] in missing]
    taken = before[: heads[-1] + 1] if heads else []
    return [*taken[::-1], *rows], len(before) > len(taken)


async def _with_parts(database: Database, where: MessageScope, rows: list[Row]) -> tuple[list[Row], bool]:
    """Add the rows up to the last that is a part of one of `rows`, if it is near; whether there are newer ones."""
    here = {row["id"] for row in rows}
    after = await _beside(database, where, _edge_of(where, rows[-1]), "gt", NEAR + 1)
    parts = [place for place, row in enumerate(after[:NEAR]) if owners(row) & here]
    taken = after[: parts[-1] + 1] if parts else []
    return [*rows, *taken], len(after) > len(taken)


def _edge_of(where: MessageScope, row: Row) -> Edge:
    return row["id"], row["ts"] if where.group is not None else None


async def _with_raw(database: Database, rows: list[Row]) -> list[Row]:
    """Add `raw` to rows of the few kinds that show more than the columns have."""
    wanted = [row["id"] for row in rows if row["kind"] in KINDS_WITH_RAW]
    if not wanted:
        return rows
    found = await database.read("raw", lambda c: c.table("messages").select("id,raw").in_("id", wanted))
    raws = {row["id"]: row["raw"] for row in found}
    return [{**row, "raw": raws.get(row["id"])} if row["id"] in raws else row for row in rows]


async def _with_results(database: Database, session: str, rows: list[Row]) -> list[Row]:
    """Add `result` to each poll: `{voters, options: [{option, votes}]}`."""
    polls = [row["id"] for row in rows if row["kind"] == "poll"]
    if not polls:
        return rows
    results = await database.ask(lambda store: store.console.poll_results(session, polls))
    return [{**row, "result": results[row["id"]]} if row["id"] in results else row for row in rows]


async def _references(database: Database, where: MessageScope, rows: Sequence[Row]) -> dict[str, Any]:
    """The quoted rows, and the names of everybody mentioned."""
    names = Names()
    names.learn(rows)
    wanted = sorted(references(rows))
    quoted: dict[int, Row] = {row["id"]: row for row in rows}
    if wanted:
        found = await database.read("quoted", lambda c: c.table("messages").select(QUOTED_COLUMNS).in_("id", wanted))
        names.learn(found)
        quoted |= {row["id"]: row for row in found}
    await _learn(database, where.session, names, names.missing(_people(rows)), {row["chat_id"] for row in rows})
    return {"quoted": quoted, "names": names}


def _people(rows: Iterable[Row]) -> Iterable[str | None]:
    for row in rows:
        yield row["sender"]
        yield row.get("revoked_by")
        yield row.get("quoted_sender")
        yield from row.get("mentions") or ()
        yield from (reaction["sender"] for reaction in row.get("message_reactions") or ())


async def _learn(database: Database, session: str, names: Names, missing: set[str], chats: set[str]) -> None:
    """Learn missing names and numbers from these people's other messages in these groups."""
    people = sorted(missing)[:NAMES_MAX]
    if not people:
        return
    found = await database.read(
        "names",
        lambda c: (
            c.table("messages")
            .select("sender,sender_alt,push_name")
            .eq("session_id", session)
            .in_("chat_id", sorted(chats))
            .in_("sender", people)
            .not_.is_("push_name", "null")
            .order("ts")
            .limit(NAMES_MAX)
        ),
    )
    names.learn(found)
    lids = [address for address in names.missing(people) if address.endswith("@lid")]
    if lids:
        pairs = await database.read(
            "identities", lambda c: c.table("wa_identities").select("lid,pn").eq("session_id", session).in_("lid", lids)
        )
        names.alternatives |= {pair["lid"]: pair["pn"] for pair in pairs}
