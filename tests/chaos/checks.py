"""What must hold at the end of a run: the five points of the promise, each as checks that can fail by name.

Pure: looks at what was gathered (`Evidence`), asks nobody. The checks:

    settled      0  everything that was sent has got in, within the time that is given for it
    stored       1  a message whose receipt reached the server is in `messages`, or listed as refused with its bytes
    once         1  … exactly once
    intact       1  … with its text, and not taken back by somebody else
    gate         2  no receipt reached the server before the commit that holds its message was answered
    readable     3  nothing that was sent in good form was acked instead of receipted, or left undecryptable
    media        4  a stored file has its object, whose sha256 is its path and the sender's
    media_once   4  no content lies in the bucket twice
    lease        5  one holder at a time
    privacy      5  nothing unmonitored was stored, sent to Supabase, logged, or written to disk
    memory       5  memory stayed bounded
    accounted    1  (the phase on default settings) receipted = stored, or counted as discarded
    covered      1  what was sent and cannot be read lies in a gap of the coverage; each gap holds what it says, and
                    there is no other; at no time was anything missing before the high-water mark
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.chaos.coverage import violations
from tests.chaos.ledger import FORBIDDEN, Entry, Identity, Ledger
from tests.chaos.proxy import Commit, Known, LeaseCall

Row = dict[str, Any]
Violation = tuple[str, str]

POINTS = {
    "settled": 0, "stored": 1, "once": 1, "intact": 1, "accounted": 1, "covered": 1, "gate": 2, "readable": 3,
    "media": 4, "media_once": 4, "lease": 5, "privacy": 5, "memory": 5, "faults": 0, "processes": 0,
}  # fmt: skip
# Two processes, two clocks that count the same nanoseconds from starts of their own; the proxy holds answers for 10 ms.
CLOCK_MS = 3.0
DELIVERED = (None, "inactive", "sender")  # types of a receipt that says "we have it"
MB = 1024 * 1024
# The sidecar's log is bounded at 64 MB (LOG_BYTES_MAX), its key cache at 32 MB; Node and Baileys take 150 MB at rest. A
# text of 5 MB is there several times over while it passes.
MEMORY_MAX = {"sidecar": 600 * MB, "worker": 450 * MB}
SHOWN = 5  # violations of one check in the report


@dataclass(kw_only=True)
class Evidence:
    """Everything that was gathered when the run had settled."""

    ledger: Ledger
    receipts: list[Row]  # the phone's, in order
    messages: list[Row]
    media: list[Row]
    objects: Mapping[str, bytes]  # path → content
    others: Mapping[str, list[Row]]  # further tables, for the search for what must not be there
    discards: Mapping[str, int]
    commits: list[Commit]
    known: list[Known]
    leases: list[LeaseCall]
    leaks: list[str]
    leaked_files: list[str]
    peak_bytes: Mapping[str, int]
    unsettled: list[str]
    coverage: Mapping[str, Row]  # by group
    unmarked: list[str]  # what was missing before the mark

    @property
    def too_old(self) -> int:
        """Messages that were discarded for their age, live or after they had waited."""
        return sum(self.discards.get(reason, 0) for reason in ("too_old", "waited_too_long"))

    def delivered(self) -> dict[Identity, float]:
        """When the server read the first receipt of each group message."""
        first: dict[Identity, float] = {}
        for item in self.receipts:
            if item["kind"] == "receipt" and item["type"] in DELIVERED and item["to"] in self.ledger.groups:
                identity = self.ledger.identity(item["to"], item["participant"], item["id"])
                first.setdefault(identity, float(item["at_ms"]))
        return first

    def rows(self) -> dict[Identity, list[Row]]:
        found: dict[Identity, list[Row]] = {}
        for row in self.messages:
            if row["kind"] != "system":
                found.setdefault(self.ledger.identity(row["chat_id"], row["sender"], row["wa_msg_id"]), []).append(row)
        return found


def check_all(evidence: Evidence) -> list[Violation]:
    """Every violation, as (check, what was found)."""
    checks = (
        settled,
        stored,
        once,
        intact,
        accounted,
        covered,
        gate,
        readable,
        media,
        media_once,
        lease,
        privacy,
        memory,
    )
    return [(check.__name__, text) for check in checks for text in check(evidence)]


def settled(evidence: Evidence) -> Iterator[str]:
    yield from evidence.unsettled


def stored(evidence: Evidence) -> Iterator[str]:
    delivered, rows = evidence.delivered(), evidence.rows()
    listed = {
        evidence.ledger.identity(row["chat_id"], row["sender"], row["wa_msg_id"])
        for row in evidence.others["wa_refused_stanzas"]
        if row["body"] and row["item"] == "message"
    }
    for identity, entry in evidence.ledger.stored(["wide"]).items():
        if identity in delivered and identity not in rows and identity not in listed:
            yield f"{_name(entry)} was receipted and is not in the table"


def once(evidence: Evidence) -> Iterator[str]:
    expected = evidence.ledger.stored(["wide", "defaults"])
    for identity, rows in evidence.rows().items():
        if len(rows) > 1:
            yield f"{identity} has {len(rows)} rows"
        elif identity not in expected and identity[0] in evidence.ledger.monitored:
            yield f"{identity} was never sent and has a row of kind {rows[0]['kind']}"


def intact(evidence: Evidence) -> Iterator[str]:
    expected = evidence.ledger.stored(["wide", "defaults"])
    for identity, rows in evidence.rows().items():
        entry = expected.get(identity)
        for row in rows:
            if row["revoked_at"]:
                yield f"{_name(entry) if entry else identity} was revoked by somebody who may not"
            if entry and row["kind"] != "undecryptable" and (row["text"] or None) != (entry.text or None):
                yield f"{_name(entry)}: {_short(entry.text)} was stored as {_short(row['text'])}"


def accounted(evidence: Evidence) -> Iterator[str]:
    delivered, rows = evidence.delivered(), evidence.rows()
    expected = evidence.ledger.stored(["defaults"])
    missing = [entry for identity, entry in expected.items() if identity in delivered and identity not in rows]
    counted = evidence.too_old
    if len(missing) != counted:
        yield f"{len(missing)} messages were receipted and not stored, {counted} were counted as discarded"
    for entry in missing:
        if not entry.old and not counted:
            yield f"{_name(entry)} is missing"


def covered(evidence: Evidence) -> Iterator[str]:
    yield from evidence.unmarked
    readable = {
        identity for identity, rows in evidence.rows().items() if any(row["kind"] != "undecryptable" for row in rows)
    }
    others = {chat: Counter[str]() for chat in evidence.coverage}
    for row in evidence.messages:
        if row["chat_id"] in others and row["kind"] == "undecryptable":
            others[row["chat_id"]]["stubs"] += 1
    for row in evidence.others["wa_refused_stanzas"]:
        if row["chat_id"] in others and row["state"] != "undecrypted":
            others[row["chat_id"]]["refused"] += 1
    expected = evidence.ledger.stored(["wide", "defaults"])
    yield from violations(evidence.coverage, expected, readable, others)


def gate(evidence: Evidence) -> Iterator[str]:
    """When each message was known to be durable: its commit's answer left, or a later "known" for its batch."""
    durable: dict[Identity, float] = {}
    told: dict[str, float] = {}
    for known in evidence.known:
        for digest in known.hashes:
            told.setdefault(digest, known.answered_at_ms)
    for commit in evidence.commits:
        times = [told[digest] for digest in commit.hashes if digest in told]
        times += [commit.answered_at_ms] if commit.answered_at_ms is not None else []
        identities = [evidence.ledger.identity(*message) for message in commit.messages]
        for identity in identities:
            durable[identity] = min([durable.get(identity, float("inf")), *times])
    delivered = evidence.delivered()
    for identity, entry in evidence.ledger.stored(["wide", "defaults"]).items():
        at, safe = delivered.get(identity), durable.get(identity)
        if at is None or safe is None:
            continue  # without a commit it is not in the table either, which `stored` sees
        if safe == float("inf"):
            yield f"{_name(entry)} was receipted, and no commit of it was ever answered"
        elif at < safe - CLOCK_MS:
            yield f"{_name(entry)} was receipted {safe - at:.0f} ms before its commit was answered"


def readable(evidence: Evidence) -> Iterator[str]:
    sent = {(entry.person, entry.id): entry for entry in evidence.ledger.entries}
    for item in evidence.receipts:
        who = evidence.ledger.name(item["participant"] or item["to"]), item["id"]
        entry = sent.get(who)
        if item["class"] != "message":
            continue
        if entry.good if entry else item["kind"] == "nack":
            yield f"{_name(entry) if entry else who} in {item['to']} got no receipt but an ack (error {item['error']})"
    for row in evidence.messages:
        if row["kind"] == "undecryptable" and evidence.ledger.name(row["sender"]) not in evidence.ledger.attackers:
            yield f"{row['wa_msg_id']} of {evidence.ledger.name(row['sender'])} stayed undecryptable"


def media(evidence: Evidence) -> Iterator[str]:
    by_id = {row["id"]: row for row in evidence.media}
    rows = evidence.rows()
    for identity, entry in evidence.ledger.stored(["wide"]).items():
        for row in rows.get(identity, []):
            if entry.sha256 is None:
                continue
            if row["media_status"] != "stored" or row["media_id"] not in by_id:
                yield f"{_name(entry)}: its file is {row['media_status']}"
            elif by_id[row["media_id"]]["sha256"] != entry.sha256:
                yield f"{_name(entry)} is linked to another file"
    for row in evidence.media:
        content = evidence.objects.get(row["storage_path"])
        if content is None:
            yield f"{row['storage_path']} has a row and no object"
        elif not (hashlib.sha256(content).hexdigest() == row["sha256"] == row["storage_path"].split("/")[0]):
            yield f"{row['storage_path']}: the object has another hash"


def media_once(evidence: Evidence) -> Iterator[str]:
    contents = Counter(hashlib.sha256(content).hexdigest() for content in evidence.objects.values())
    yield from (f"the content {digest[:12]}… lies in {n} objects" for digest, n in contents.items() if n > 1)
    rows = Counter(row["sha256"] for row in evidence.media)
    yield from (f"the content {digest[:12]}… has {n} rows" for digest, n in rows.items() if n > 1)


def lease(evidence: Evidence) -> Iterator[str]:
    """Held by one at a time, by the database's clock; and what was written was written by the holder.

    A release is noted when it is asked for, an acquisition when it is answered. So a renewal may be noted after the
    release that followed it: its fence has ended.
    """
    holder: LeaseCall | None = None
    ended = 0
    for call in evidence.leases:
        if call.acquired and call.fence <= ended:
            continue
        ended = max(ended, call.fence if call.released else call.fence - 1)
        if call.released:
            if holder and (holder.owner, holder.fence) == (call.owner, call.fence):
                holder = None
        elif call.acquired:
            if holder and holder.owner != call.owner and holder.expires_at and call.at and call.at < holder.expires_at:
                yield f"{call.owner} got the lease {holder.expires_at - call.at} before that of {holder.owner} ran out"
            holder = call
    fences = {call.fence: call.answered_at_ms for call in reversed(evidence.leases) if call.acquired}
    for commit in evidence.commits:
        newer = [at for fence, at in fences.items() if fence > commit.fence]
        if commit.applied and newer and min(newer) < commit.sent_at_ms:
            yield f"a commit under fence {commit.fence} was taken after a newer fence had been given"


def privacy(evidence: Evidence) -> Iterator[str]:
    chats = evidence.ledger.monitored
    for row in evidence.messages:
        if row["chat_id"] not in chats:
            yield f"a row of the unmonitored chat {row['chat_id']}"
    for table, rows in {**evidence.others, "messages": evidence.messages}.items():
        for row in rows:
            if FORBIDDEN in repr(row):
                yield f"content of an unmonitored chat is in {table}"
    private = {entry.sha256 for entry in evidence.ledger.entries if entry.sha256 and not entry.monitored}
    private -= {entry.sha256 for entry in evidence.ledger.entries if entry.monitored}
    for path in evidence.objects:
        if path.split("/")[0] in private:
            yield f"a file of an unmonitored chat is in the bucket: {path}"
    yield from (f"content of an unmonitored chat was sent to {function}" for function in evidence.leaks)
    yield from (f"content of an unmonitored chat is on disk, in {path}" for path in evidence.leaked_files)


def memory(evidence: Evidence) -> Iterator[str]:
    for name, most in MEMORY_MAX.items():
        peak = evidence.peak_bytes.get(name, 0)
        if peak > most:
            yield f"the {name} took {peak // MB} MB; {most // MB} MB is the bound"


def grouped(violations: Iterable[Violation]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for check, text in violations:
        found.setdefault(check, []).append(text)
    return found


def _name(entry: Entry) -> str:
    return f"{entry.id} of {entry.person} ({entry.kind})"


def _short(text: str | None) -> str:
    return repr(text if text is None or len(text) < 60 else f"{text[:40]}… ({len(text)})")
