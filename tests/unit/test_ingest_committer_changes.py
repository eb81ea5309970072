"""The committer and changes: they are passed on, blanked if the setting says so, and never block a batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import anyio
import pytest

from tests.unit.doubles import Database
from worker.bridge.protocol import Commit
from worker.errors import StaleFence, StoreError, StoreRefused, StoreUnavailable
from worker.ingest import encrypted_edits
from worker.ingest.committer import Committer, Listeners
from worker.ingest.encrypted_edits import EDITS_PER_ROUND, EncryptedEdits
from worker.ingest.rules.normalise import Rules
from worker.session.report import Report
from worker.settings import load_settings
from worker.store import Batch, Committed, EncryptedEdit, OpenedEdit
from worker.store.availability import DatabaseWatch
from worker.store.cipher import StateCipher
from worker.store.session import SessionStore

GROUP = "1@g.us"


def make_committer(database: Database, blank_revoked: bool = False) -> Committer:
    return Committer(
        database.store,
        StateCipher("default", None),
        DatabaseWatch(),
        rules=lambda: Rules(monitored={GROUP}, blank_revoked=blank_revoked),
        listeners=Listeners(error=Report(database.store).error),
    )


def make_commit(*contents: dict[str, Any]) -> Commit:
    now = int(time.time())
    stanzas: list[dict[str, Any]] = [
        {
            "attrs": {"id": f"ID{n}", "from": GROUP, "t": str(now)},
            "key": {"remoteJid": GROUP, "fromMe": False, "id": f"ID{n}", "participant": "7@s.whatsapp.net"},
            "arrived_at_ms": now * 1000,
            "server_time_offset_ms": 0,
            "content": content,
            "failure": None,
            "hashes": [],
            "retry_count": 0,
            "unavailable": None,
        }
        for n, content in enumerate(contents)
    ]
    return Commit.model_validate({"epoch": 3, "seq": 1, "stanzas": stanzas, "events": []})


REVOKE = {"protocolMessage": {"type": "REVOKE", "key": {"id": "T1", "participant": "9@s.whatsapp.net"}}}


@pytest.mark.parametrize(("setting", "blank"), [(None, False), ("keep", False), ("blank", True)])
async def test_what_a_revoke_does_is_a_setting(
    setting: str | None, blank: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORKER_REVOKE", raising=False)
    settings = load_settings({"_env_file": None} | ({} if setting is None else {"worker_revoke": setting}))
    database = Database()
    committer = make_committer(database, blank_revoked=settings.worker_revoke == "blank")
    await committer.commit(make_commit(REVOKE))
    (change,) = database.commits[0].changes
    assert change["payload"]["blank"] is blank
    assert database.commits[0].messages == []


async def test_numbers_of_targets_are_looked_up_before_a_change_is_read() -> None:
    database = Database(identities={"7@s.whatsapp.net": "70@lid", "9@s.whatsapp.net": "90@lid"})
    await make_committer(database).commit(make_commit(REVOKE))
    (change,) = database.commits[0].changes
    assert (change["author"], change["target_sender"]) == ("70@lid", "90@lid")


async def test_a_change_that_the_database_will_not_take_goes_as_base64_and_the_rest_goes_on() -> None:
    def refuse(batch: Batch) -> Exception | None:
        return StoreRefused("no", code="22P05") if batch.changes else None

    database = Database(refuse=refuse)
    done = await make_committer(database).commit(make_commit(REVOKE))
    assert done.seq == 1
    (part,) = database.parts
    assert [(item.item, item.wa_msg_id) for item in part.opaque] == [("change", "ID0")]
    (batch,) = database.commits
    assert (batch.changes, batch.discards) == ((), {})


@dataclass
class EditQueue:
    """An account in which encrypted edits wait."""

    edits: list[EncryptedEdit] = field(default_factory=list)
    error: StoreError | None = None
    poison: int = 0  # the edit with which every call fails
    calls: list[str] = field(default_factory=list)
    opened: list[OpenedEdit] = field(default_factory=list)

    async def encrypted_edits(self, limit: int) -> list[EncryptedEdit]:
        self.calls.append("encrypted_edits")
        handed_out, self.edits = self.edits[:limit], self.edits[limit:]  # the others are put off
        return handed_out

    async def open_edits(self, opened: Sequence[OpenedEdit]) -> int:
        self.calls.append("open_edits")
        if self.error or any(edit.id == self.poison for edit in opened):
            raise self.error or StoreUnavailable("HTTP 403")
        self.opened += opened
        return len(opened)


UNREADABLE = EncryptedEdit(
    id=1,
    target_id="T1",
    payload={"ciphertext": "AAAA", "iv": "AAAAAAAAAAAAAAAA", "forms": ["7@lid"]},
    secret="BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=",  # noqa: S106 - of a test
    sender="7@lid",
    sender_alt=None,
)  # fmt: skip


async def test_what_does_not_open_is_handed_back_as_unreadable() -> None:
    queue = EditQueue([UNREADABLE])
    await EncryptedEdits(cast(SessionStore, queue)).open()
    assert queue.opened == [OpenedEdit(id=1, unreadable=True)]


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreRefused("no", code="22P05"), StaleFence("gone")])
async def test_an_edit_that_cannot_be_handed_back_is_handed_back_at_a_later_commit(error: StoreError) -> None:
    queue = EditQueue([UNREADABLE], error)
    edits = EncryptedEdits(cast(SessionStore, queue))
    await edits.open()
    assert queue.calls == ["encrypted_edits", "open_edits"]
    queue.error, queue.edits = None, [UNREADABLE]
    await edits.open()
    assert queue.opened == [OpenedEdit(id=1, unreadable=True)]


async def test_one_edit_that_cannot_be_handed_back_holds_up_none_of_the_others() -> None:
    queue = EditQueue([replace(UNREADABLE, id=n) for n in range(1, EDITS_PER_ROUND + 1)], poison=7)
    await EncryptedEdits(cast(SessionStore, queue)).open()
    assert [edit.id for edit in queue.opened] == [n for n in range(1, EDITS_PER_ROUND + 1) if n != 7]


async def test_after_a_round_that_failed_or_took_too_long_the_next_are_fetched_one_at_a_time_and_then_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encrypted_edits, "ROUND_SECONDS", 0.05)
    asked: list[int] = []

    class Hangs(EditQueue):
        async def encrypted_edits(self, limit: int) -> list[EncryptedEdit]:
            asked.append(limit)
            if len(asked) == 1:
                await anyio.sleep_forever()
            return await super().encrypted_edits(limit)

    edits = EncryptedEdits(cast(SessionStore, Hangs([UNREADABLE] * 10)))
    for _ in range(4):
        await edits.open()
    assert asked == [EDITS_PER_ROUND, 1, 2, 4]


async def test_the_committer_opens_edits_when_the_database_says_so() -> None:
    class Telling(Database):
        asked = 0

        async def commit(self, batch: Batch) -> Committed:
            return Committed(seq=batch.seq, duplicate=False, sealed=1)

        async def encrypted_edits(self, limit: int) -> list[EncryptedEdit]:
            self.asked += 1
            raise StoreUnavailable("away")

    database = Telling()
    assert (await make_committer(database).commit(make_commit(REVOKE))).seq == 1
    assert database.asked == 1
