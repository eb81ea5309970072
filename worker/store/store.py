"""The database, one method per SQL function (supabase/migrations, docs/schema.md).

Knows names and shapes, nothing else: no retries, no decisions. Errors are those of `worker.store.client.translated`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

import anyio
from supabase import AsyncClient

from worker.errors import KeyRefused, SettingsError, StoreError, StoreRefused, UnexpectedAnswer
from worker.store.bucket import Bucket
from worker.store.client import Timeouts, make_client, translated
from worker.store.console import Console
from worker.store.embedded import MIGRATIONS
from worker.store.host_poll import HeldSession, HostPollAnswer, parse_answer, parse_flag
from worker.store.key import KeyWatch
from worker.store.lanes import Lanes
from worker.store.rows import (
    AccountState,
    Audit,
    Batch,
    Claim,
    Committed,
    EncryptedEdit,
    Expired,
    ExpireMode,
    Flag,
    GroupChange,
    GroupsUpserted,
    Json,
    Lease,
    MediaFile,
    MediaJob,
    MediaLinked,
    OpenedEdit,
    Piece,
    Pieces,
    Pruned,
    Suspect,
    known,
)

SCHEMA_VERSION = max(file.name for file in MIGRATIONS.glob("*.sql"))[:14]  # the newest migration, which we need
MEDIA_CONNECTIONS = 8
STRAY_PAUSES_SECONDS = (0.3, 1.0)
CHEAPEST = "wa_schema_version"  # reads no table
# Each function answers a JSON object that is never empty: `{}` and `[]` are what a gateway says.
NULLABLE = frozenset({"wa_media_known", "wa_pairing_view"})


class Store:
    """A session-less handle on one Supabase; safe to share between tasks. Make it with `connect_store`."""

    def __init__(
        self, database: AsyncClient, media: AsyncClient, timeouts: Timeouts, lanes: Lanes | None = None
    ) -> None:
        self._database = database
        self._media = media
        self._timeouts = timeouts
        self.bucket = Bucket(media, timeouts)
        self.console = Console(self._call_again)
        self.key = KeyWatch()
        self._lanes = lanes or Lanes()

    async def check(self) -> None:
        """Return only if Supabase answers, takes the key and has our schema.

        Raises:
            SettingsError: migrations are missing.
            UnexpectedAnswer: the key is refused, or this is not our Supabase; see `remedy`. Check twice.
            StoreUnavailable: nobody answers at this address, or nothing sensible.
        """
        version = await self.schema_version()
        if version < SCHEMA_VERSION:
            raise SettingsError(f"the database lacks migrations after {version}: apply them with `supabase db push`")

    async def schema_version(self) -> str:
        return str((await self._call(CHEAPEST, {}))["version"])

    async def select_nothing(self, table: str, columns: str) -> None:
        """Read no row; StoreRefused if the table or a column is missing."""
        with translated(table, self._timeouts.call):
            await self._database.table(table).select(columns).limit(0).execute()

    # The lease, and the session's row.

    async def lease_acquire(self, session: str, owner: str, seconds: float) -> Lease:
        row = await self._call("wa_lease_acquire", {"p_session": session, "p_owner": owner, "p_seconds": seconds})
        return Lease(
            acquired=row["acquired"],
            fence=int(row["fence"]),
            epoch=int(row["epoch"]),
            holder=row["holder"],
            expires_at=_time(row["expires_at"]),
            now=_time(row["now"]),
        )

    async def lease_release(self, session: str, owner: str, fence: int, *, failed: bool = False) -> bool:
        """True if the lease was ours. `failed`: the session could not be started; we do not claim it again soon."""
        args = {"p_session": session, "p_owner": owner, "p_fence": str(fence), "p_failed": failed}
        return bool((await self._call("wa_lease_release", args))["released"])

    async def host_poll(
        self,
        owner: str,
        capacity: int | None,
        held: Sequence[HeldSession],
        lease_seconds: float | None = None,
        within: float | None = None,
    ) -> HostPollAnswer:
        """Renews the leases of these sessions, says what is new for them, and claims up to `capacity` wanted ones.

        `capacity` None: these are not all sessions of this process, so that it says nothing of how many it holds.
        `within`: how many seconds the answer may take, from the sending.
        """
        args = {"p_owner": owner, "p_capacity": capacity, "p_held": [one.as_document() for one in held]}
        return parse_answer(await self._call("wa_host_poll", args | {"p_lease_seconds": lease_seconds}, within))

    async def host_leave(self, owner: str) -> None:
        """This host stops: others need not wait for the room that it had."""
        await self._do("wa_host_leave", {"p_owner": owner}, "left")

    async def request_handled(self, session: str, id_: int, result: str) -> None:
        """Mark a request of `wa_requests` as done, carried out or not; `result` says which, for people."""
        args = {"p_session": session, "p_id": str(id_), "p_result": result}
        await self._do("wa_request_handled", args, "found")

    async def begin_epoch(self, session: str, fence: int) -> int:
        return int((await self._call("wa_begin_epoch", _held(session, fence)))["epoch"])

    async def load_state(self, session: str, fence: int) -> AccountState:
        row = await self._call("wa_load_state", _held(session, fence))
        return AccountState(creds=row["creds"], has_keys=row["has_keys"])

    async def get_keys(self, session: str, type_: str, ids: Sequence[str]) -> dict[str, str]:
        """Values by id; ids without a value are left out."""
        args = {"p_session": session, "p_type": type_, "p_ids": list(ids)}
        return dict((await self._call("wa_get_keys", args))["keys"])

    async def known_stanzas(self, session: str, hashes: Sequence[str]) -> set[str]:
        args = {"p_session": session, "p_hashes": list(hashes)}
        return set((await self._call("wa_known_stanzas", args))["hashes"])

    async def note_death(self, session: str, fence: int, digest: str, death: str, *, killed: bool) -> None:
        """Count one end of a sidecar against the stanza that it was decrypting. An end is counted once."""
        args = {"p_hash": digest, "p_death": death, "p_killed": killed}
        await self._do("wa_note_death", _held(session, fence) | args)

    async def list_suspects(self, session: str) -> list[Suspect]:
        rows = (await self._call("wa_list_suspects", {"p_session": session}))["suspects"]
        return [Suspect(**known(Suspect, row)) for row in rows]

    async def get_identities(self, session: str, ids: Sequence[str]) -> dict[str, str]:
        """The other form of each person, by LID or by number; unknown ones are left out, '' for a number that moved."""
        args = {"p_session": session, "p_ids": list(ids)}
        return dict((await self._call("wa_get_identities", args))["identities"])

    async def commit(self, session: str, batch: Batch) -> Committed:
        """Makes a batch durable, exactly once. After `StoreUnavailable`, send the same batch again."""
        return await self._commit("wa_commit", session, batch.as_document())

    async def commit_part(self, session: str, part: Batch) -> Committed:
        """Makes items of a batch durable and leaves its number as it is; `commit` of the rest ends the batch."""
        return await self._commit("wa_commit_part", session, part.as_document())

    async def put_piece(self, session: str, piece: Piece) -> Committed:
        """Keeps one piece of a part that is too large for one call."""
        return await self._commit("wa_put_piece", session, piece.as_document())

    async def commit_pieces(self, session: str, pieces: Pieces) -> Committed:
        """Takes the pieces together as the part, or as the last part, that they are."""
        return await self._commit("wa_commit_pieces", session, pieces.as_document())

    async def _commit(self, function: str, session: str, document: Json) -> Committed:
        row = await self._call(function, {"p_session": session, "p_batch": document})
        return Committed(**{**known(Committed, row), "seq": int(row["seq"])})

    async def encrypted_edits(self, session: str, limit: int) -> list[EncryptedEdit]:
        """Encrypted edits that can be opened now, oldest first."""
        rows = (await self._call("wa_sealed_edits", {"p_session": session, "p_limit": limit}))["edits"]
        return [EncryptedEdit(**{**known(EncryptedEdit, row), "id": int(row["id"])}) for row in rows]

    async def open_edits(self, session: str, fence: int, opened: Sequence[OpenedEdit]) -> int:
        """Hands back what was in them; how many changed a message."""
        edits = [asdict(edit) | {"id": str(edit.id)} for edit in opened]
        return int((await self._call("wa_open_edits", _held(session, fence) | {"p_opened": edits}))["changed"])

    async def set_session(self, session: str, fence: int, patch: Json, audits: Sequence[Audit] = ()) -> None:
        """Changes what `patch` names (status, detail, wa_name, wa_number) and writes `audits`, in one transaction."""
        args = _held(session, fence) | {"p_patch": dict(patch), "p_audits": [asdict(a) for a in audits]}
        await self._do("wa_set_session", args)

    async def wipe_credentials(self, session: str, fence: int) -> int:
        """Delete the credentials; the new epoch, which no batch in flight has."""
        return int((await self._call("wa_wipe_credentials", _held(session, fence)))["epoch"])

    # Groups, flags, audit.

    async def upsert_groups(
        self, session: str, fence: int, groups: Sequence[GroupChange], *, complete: bool
    ) -> GroupsUpserted:
        """`complete`: these are all groups of the account (a discovery)."""
        args = _held(session, fence) | {"p_groups": [asdict(g) for g in groups], "p_complete": complete}
        return GroupsUpserted(**known(GroupsUpserted, await self._call("wa_upsert_groups", args)))

    async def write_members(self, session: str, fence: int, entries: Sequence[Json]) -> int:
        """What lists say of groups' members (`worker.ingest.rules.members`); how many of them are gone."""
        args = _held(session, fence) | {"p_entries": [dict(entry) for entry in entries]}
        return int((await self._call("wa_write_members", args))["closed"])

    async def monitored_groups(self, session: str) -> frozenset[str]:
        return frozenset((await self._call("wa_monitored_groups", {"p_session": session}))["groups"])

    async def pending_flags(self, session: str) -> list[Flag]:
        rows = (await self._call("wa_pending_flags", {"p_session": session}))["flags"]
        return [parse_flag(row) for row in rows]

    async def flag_handled(self, session: str, flag: Flag) -> None:
        """Mark this request as handled; a newer one stays pending."""
        args = {"p_session": session, "p_key": flag.key, "p_at_text": flag.at_text}
        await self._do("wa_flag_handled", args, "found")

    async def audit(self, session: str, event: str, payload: Json | None = None) -> None:
        await self._do("wa_audit", {"p_session": session, "p_event": event, "p_payload": dict(payload or {})})

    # Media jobs.

    async def media_claim(
        self, owner: str, limit: int, lease_seconds: float, session: str | None = None, *, phone: bool = True
    ) -> Claim:
        """Claims due jobs of one session, or of all; each is ours for `lease_seconds`.

        `phone`: whether those that wait for the phone are wanted, too.
        """
        args = {"p_owner": owner, "p_limit": limit, "p_lease_seconds": lease_seconds, "p_session": session}
        args |= {"p_phone": phone}
        row = await self._call("wa_media_claim", args)
        jobs = tuple(
            MediaJob(**{**known(MediaJob, job), "created_at": _time(job["created_at"])}) for job in row["jobs"]
        )
        return Claim(jobs=jobs, next_in_seconds=row["next_in_s"])

    async def media_renew(self, job_id: int, owner: str, lease_seconds: float) -> None:
        """StoreRefused with code `stale_job` if it is no longer ours."""
        await self._do("wa_media_renew", _job(job_id, owner) | {"p_lease_seconds": lease_seconds}, "gone")

    async def media_known(self, file_enc_sha256: str, media_key_sha256: str) -> MediaFile | None:
        """The file behind a ciphertext that was verified before under the same media key (both hex)."""
        args = {"p_file_enc_sha256": file_enc_sha256, "p_media_key_sha256": media_key_sha256}
        row = await self._call("wa_media_known", args)
        if row is None:
            return None
        return MediaFile(
            sha256=row["sha256"],
            mime=row["mime"],
            bytes=int(row["bytes"]),
            storage_path=row["storage_path"],
            width=row["width"],
            height=row["height"],
            duration_s=row["duration_s"],
            file_enc_sha256=file_enc_sha256,
            media_key_sha256=media_key_sha256,
        )

    async def media_done(self, job_id: int, owner: str, file: MediaFile) -> MediaLinked:
        """The object is in the bucket: makes or finds its row, links the message, ends the job.

        The row is made also if the job is gone, or another's by now: `stale_job`, which here is an answer of SQL's.
        """
        media = asdict(file) | {"bytes": str(file.bytes)}
        row = await self._call("wa_media_done", _job(job_id, owner) | {"p_media": media})
        if row["stale"]:
            raise StoreRefused("wa_media_done: stale_job", "stale_job")
        return MediaLinked(**known(MediaLinked, row))

    async def media_retry(
        self, job_id: int, owner: str, error: str, delay_seconds: float, descriptor: Json | None = None
    ) -> None:
        """Another attempt later. With a new descriptor the job no longer waits for the phone."""
        args = {"p_error": error, "p_delay_seconds": delay_seconds, "p_descriptor": descriptor and dict(descriptor)}
        await self._do("wa_media_retry", _job(job_id, owner) | args, "gone")

    async def media_ask_phone(self, job_id: int, owner: str, error: str) -> None:
        """Leave the job to the process that has the phone."""
        await self._do("wa_media_ask_phone", _job(job_id, owner) | {"p_error": error}, "gone")

    async def media_abandon(self, job_id: int, owner: str, status: str, code: str, error: str) -> None:
        """No further attempt: `messages.media_status` becomes `status`, an audit entry says `code` and why."""
        args = {"p_status": status, "p_code": code, "p_error": error}
        await self._do("wa_media_abandon", _job(job_id, owner) | args, "gone")

    # Housekeeping.

    async def mark_lost(self, session: str, older_than_seconds: float) -> int:
        args = {"p_session": session, "p_older_than_seconds": older_than_seconds}
        return int((await self._call("wa_mark_lost", args))["lost"])

    async def prune(self, session: str, *, stanza_seconds: float, audit_seconds: float | None = None) -> Pruned:
        args = {"p_session": session, "p_stanza_seconds": stanza_seconds, "p_audit_seconds": audit_seconds}
        return Pruned(**known(Pruned, await self._call("wa_prune", args)))

    async def prune_changes(self, session: str, older_than_seconds: float) -> bool:
        """Forgets old deletions (docs/schema.md, "message_changes"); whether there are more."""
        args = {"p_session": session, "p_older_than_seconds": older_than_seconds}
        return bool((await self._call("wa_prune_changes", args))["more"])

    async def expire(self, session: str, mode: ExpireMode, limit: int) -> Expired:
        """Removes messages whose time to disappear has come: their content, or all of them."""
        row = await self._call("wa_expire", {"p_session": session, "p_mode": mode, "p_limit": limit})
        return Expired(**known(Expired, row))

    async def due_refused(self, session: str, limit: int) -> list[int]:
        """Ids of waiting items that are due; each is counted as tried."""
        row = await self._call("wa_due_refused", {"p_session": session, "p_limit": limit})
        return [int(id_) for id_ in row["items"]]

    async def retry_refused(self, session: str, id_: int) -> str | None:
        """Takes a listed item back; None: done, else the code that says why not."""
        row = await self._call("wa_retry_refused", {"p_session": session, "p_id": str(id_)})
        return None if row["taken"] else str(row["code"])

    async def analyze(self) -> None:
        await self._do("wa_analyze", {})

    async def status(self, session: str) -> dict[str, Any]:
        row = await self._call_again("wa_status", {"p_session": session})
        row["schema_version"]  # raises UnexpectedAnswer if another has answered
        return dict(row)

    async def _do(self, function: str, args: Mapping[str, Any], says: str = "done") -> None:
        """One call whose answer matters only as proof that the function gave it: it has the field `says`."""
        row = await self._call(function, args)
        row[says]  # raises UnexpectedAnswer if it is missing

    async def _call(self, function: str, args: Mapping[str, Any], within: float | None = None) -> Any:
        """One call; `within`: seconds for the answer, if less than all calls have.

        The key watch is told how it ended, and stops it while the key counts as refused; but never the cheapest one.
        """
        if self.key.refused is not None and function != CHEAPEST:
            raise KeyRefused(f"{function}: not asked, {self.key.refused}", self.key.refused.remedy)
        try:
            data = await self._ask(function, args, within)
        except StoreError as error:
            self.key.note(error)
            raise
        self.key.note(None)
        return data

    async def _call_again(self, function: str, args: Mapping[str, Any]) -> Any:
        """As `_call`, for commands, which end with the first error: a good key gets a stray 401 now and then.

        Nothing was done by a call that was refused so.
        """
        for pause in STRAY_PAUSES_SECONDS:
            try:
                return await self._call(function, args)
            except KeyRefused:
                await anyio.sleep(pause)
        return await self._call(function, args)

    async def _ask(self, function: str, args: Mapping[str, Any], within: float | None) -> Any:
        seconds = self._timeouts.call if within is None else min(self._timeouts.call, within)
        async with self._lanes.turn(function, args.get("p_session")):
            with translated(function, seconds):
                answer: Any = await self._database.rpc(function, dict(args)).execute()
        if answer.data is None and function in NULLABLE:
            return None
        # A gateway's; supabase-py hands on as text what is no JSON.
        if not isinstance(answer.data, dict) or not answer.data:
            raise UnexpectedAnswer(f"{function}: the answer is not the function's")
        return _Row(function, answer.data)


class _Row(dict[str, Any]):
    """A function's answer; a field that it lacks says that somebody else has answered."""

    def __init__(self, function: str, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self._function = function

    def __missing__(self, name: str) -> Any:
        raise UnexpectedAnswer(f"{self._function}: the answer is not the function's, it lacks {name}")


@asynccontextmanager
async def connect_store(
    url: str, key: str, timeouts: Timeouts | None = None, *, sessions: int = 1
) -> AsyncIterator[Store]:
    """A store on this Supabase, for so many sessions. Nothing is sent yet: `check` and `bucket.ensure` do that."""
    limits, lanes = timeouts or Timeouts(), Lanes(sessions)
    async with (
        make_client(url, key, connect=limits.connect, read=limits.call, connections=lanes.connections) as database,
        make_client(url, key, connect=limits.connect, read=limits.transfer, connections=MEDIA_CONNECTIONS) as media,
    ):
        yield Store(database, media, limits, lanes)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _held(session: str, fence: int) -> dict[str, Any]:
    return {"p_session": session, "p_fence": str(fence)}


def _job(job_id: int, owner: str) -> dict[str, Any]:
    return {"p_job": str(job_id), "p_owner": owner}
