"""The database: one method per SQL function (supabase/schemas, docs/schema.md).

Knows only names and shapes: no retries, no decisions. Errors are those of `worker.store.client.translated`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

import anyio
from postgrest import AsyncPostgrestClient
from storage3 import AsyncStorageClient

from worker.errors import KeyRefused, SettingsError, StoreError, StoreRefused, UnexpectedAnswer
from worker.store.bucket import Bucket
from worker.store.client import Timeouts, database_client, storage_client, translated
from worker.store.console import Console
from worker.store.embedded import MIGRATIONS
from worker.store.host_poll import HeldSession, HostPollAnswer, parse_answer
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

SCHEMA_VERSION = max(file.name for file in MIGRATIONS.glob("*.sql"))[:14]  # we need the newest migration
MEDIA_CONNECTIONS = 8
STRAY_PAUSES_SECONDS = (0.3, 1.0)
CHEAPEST = "wa_schema_version"  # reads no table
# Every other function returns a JSON object that is never empty; `{}` and `[]` come from gateways.
NULLABLE = frozenset({"wa_media_known", "wa_pairing_view"})


class Store:
    """A handle on one Supabase, for all sessions; safe to share between tasks. Make it with `connect_store`."""

    def __init__(
        self, database: AsyncPostgrestClient, media: AsyncStorageClient, timeouts: Timeouts, lanes: Lanes | None = None
    ) -> None:
        self._database = database
        self._timeouts = timeouts
        self.bucket = Bucket(media, timeouts)
        self.console = Console(self._call_again)
        self.key = KeyWatch()
        self._lanes = lanes or Lanes()

    async def check(self) -> None:
        """Return only if Supabase answers, accepts the key and has our schema.

        Raises:
            SettingsError: migrations are missing.
            UnexpectedAnswer: the key is refused, or this is not our Supabase; see `remedy`. Check twice.
            StoreUnavailable: no answer at this address, or no sensible one.
        """
        version = await self.schema_version()
        if version < SCHEMA_VERSION:
            raise SettingsError(f"the database lacks migrations after {version}: apply them with `supabase db push`")

    async def schema_version(self) -> str:
        return str((await self._call(CHEAPEST, {}))["version"])

    async def select_nothing(self, table: str, columns: str) -> None:
        """Read zero rows. Raises StoreRefused if the table or a column is missing."""
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
        """Release the lease. Returns whether it was ours. `failed`: the session failed; do not claim it again soon."""
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
        """Renew the leases of these sessions, get their updates, and claim up to `capacity` wanted sessions.

        `capacity` None: these are not all sessions of this process, so the call does not report how many it holds.
        `within`: time limit for the answer in seconds, from sending.
        """
        args = {"p_owner": owner, "p_capacity": capacity, "p_held": [one.as_document() for one in held]}
        return parse_answer(await self._call("wa_host_poll", args | {"p_lease_seconds": lease_seconds}, within))

    async def host_leave(self, owner: str) -> None:
        """This host stops: other hosts need not leave sessions to it."""
        await self._do("wa_host_leave", {"p_owner": owner}, "left")

    async def request_handled(self, session: str, id_: int, result: str) -> None:
        """Mark a request of `wa_requests` as done, carried out or not. `result`: the outcome, for people."""
        args = {"p_session": session, "p_id": str(id_), "p_result": result}
        await self._do("wa_request_handled", args, "found")

    async def begin_epoch(self, session: str, fence: int) -> int:
        return int((await self._call("wa_begin_epoch", _held(session, fence)))["epoch"])

    async def load_state(self, session: str, fence: int) -> AccountState:
        row = await self._call("wa_load_state", _held(session, fence))
        return AccountState(creds=row["creds"], has_keys=row["has_keys"])

    async def get_keys(self, session: str, type_: str, ids: Sequence[str]) -> dict[str, str]:
        """Values by id, without missing ids."""
        args = {"p_session": session, "p_type": type_, "p_ids": list(ids)}
        return dict((await self._call("wa_get_keys", args))["keys"])

    async def known_stanzas(self, session: str, hashes: Sequence[str]) -> set[str]:
        args = {"p_session": session, "p_hashes": list(hashes)}
        return set((await self._call("wa_known_stanzas", args))["hashes"])

    async def note_death(self, session: str, fence: int, digest: str, death: str, *, killed: bool) -> None:
        """Count a sidecar's end against the stanza that it was decrypting. Counts each `death` once."""
        args = {"p_hash": digest, "p_death": death, "p_killed": killed}
        await self._do("wa_note_death", _held(session, fence) | args)

    async def list_suspects(self, session: str) -> list[Suspect]:
        rows = (await self._call("wa_list_suspects", {"p_session": session}))["suspects"]
        return [Suspect(**known(Suspect, row)) for row in rows]

    async def get_identities(self, session: str, ids: Sequence[str]) -> dict[str, str]:
        """The other address of each person, by LID or number. Omits unknown ones; '' for a number that moved."""
        args = {"p_session": session, "p_ids": list(ids)}
        return dict((await self._call("wa_get_identities", args))["identities"])

    async def commit(self, session: str, batch: Batch) -> Committed:
        """Make a batch durable, exactly once. After `StoreUnavailable`, send the same batch again."""
        return await self._commit("wa_commit", session, batch.as_document())

    async def commit_part(self, session: str, part: Batch) -> Committed:
        """Make some items of a batch durable without completing it; `commit` of the rest completes the batch."""
        return await self._commit("wa_commit_part", session, part.as_document())

    async def put_piece(self, session: str, piece: Piece) -> Committed:
        """Store one piece of a part that is too large for one call."""
        return await self._commit("wa_put_piece", session, piece.as_document())

    async def commit_pieces(self, session: str, pieces: Pieces) -> Committed:
        """Assemble the pieces and commit them as a part, or as the last part."""
        return await self._commit("wa_commit_pieces", session, pieces.as_document())

    async def _commit(self, function: str, session: str, document: Json) -> Committed:
        row = await self._call(function, {"p_session": session, "p_batch": document})
        return Committed(**{**known(Committed, row), "seq": int(row["seq"])})

    async def encrypted_edits(self, session: str, limit: int) -> list[EncryptedEdit]:
        """Encrypted edits that can be decrypted now, oldest first."""
        rows = (await self._call("wa_sealed_edits", {"p_session": session, "p_limit": limit}))["edits"]
        return [EncryptedEdit(**{**known(EncryptedEdit, row), "id": int(row["id"])}) for row in rows]

    async def open_edits(self, session: str, fence: int, opened: Sequence[OpenedEdit]) -> int:
        """Write decrypted edits. Returns how many changed a message."""
        edits = [asdict(edit) | {"id": str(edit.id)} for edit in opened]
        return int((await self._call("wa_open_edits", _held(session, fence) | {"p_opened": edits}))["changed"])

    async def set_session(self, session: str, fence: int, patch: Json, audits: Sequence[Audit] = ()) -> None:
        """Apply `patch` (status, detail, wa_name, wa_number) and write `audits`, in one transaction."""
        args = _held(session, fence) | {"p_patch": dict(patch), "p_audits": [asdict(a) for a in audits]}
        await self._do("wa_set_session", args)

    async def wipe_credentials(self, session: str, fence: int) -> int:
        """Delete the credentials. Returns a new epoch, so that no batch in flight is accepted."""
        return int((await self._call("wa_wipe_credentials", _held(session, fence)))["epoch"])

    # Groups, flags, audit.

    async def upsert_groups(
        self, session: str, fence: int, groups: Sequence[GroupChange], *, complete: bool
    ) -> GroupsUpserted:
        """Write groups. `complete`: these are all groups of the account (a discovery)."""
        args = _held(session, fence) | {"p_groups": [asdict(g) for g in groups], "p_complete": complete}
        return GroupsUpserted(**known(GroupsUpserted, await self._call("wa_upsert_groups", args)))

    async def write_members(self, session: str, fence: int, entries: Sequence[Json]) -> int:
        """Write member lists (`worker.ingest.rules.members`). Returns how many members have left."""
        args = _held(session, fence) | {"p_entries": [dict(entry) for entry in entries]}
        return int((await self._call("wa_write_members", args))["closed"])

    async def flag_handled(self, session: str, flag: Flag) -> None:
        """Mark this request as handled. A newer one stays pending."""
        args = {"p_session": session, "p_key": flag.key, "p_at_text": flag.at_text}
        await self._do("wa_flag_handled", args, "found")

    async def audit(self, session: str, event: str, payload: Json | None = None) -> None:
        await self._do("wa_audit", {"p_session": session, "p_event": event, "p_payload": dict(payload or {})})

    # Media jobs.

    async def media_claim(
        self, owner: str, limit: int, lease_seconds: float, session: str | None = None, *, phone: bool = True
    ) -> Claim:
        """Claim due jobs of one session, or of all, each for `lease_seconds`.

        `phone`: include jobs that wait for the phone.
        """
        args = {"p_owner": owner, "p_limit": limit, "p_lease_seconds": lease_seconds, "p_session": session}
        args |= {"p_phone": phone}
        row = await self._call("wa_media_claim", args)
        jobs = tuple(
            MediaJob(**{**known(MediaJob, job), "created_at": _time(job["created_at"])}) for job in row["jobs"]
        )
        return Claim(jobs=jobs, next_in_seconds=row["next_in_s"])

    async def media_renew(self, job_id: int, owner: str, lease_seconds: float) -> None:
        """Renew a job's lease. Raises StoreRefused with code `stale_job` if the job is no longer ours."""
        await self._do("wa_media_renew", _job(job_id, owner) | {"p_lease_seconds": lease_seconds}, "gone")

    async def media_known(self, file_enc_sha256: str, media_key_sha256: str) -> MediaFile | None:
        """The file of a ciphertext verified before under the same media key (hashes in hex); None if unknown."""
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
        """The object is in the bucket: create or find its row, link the message, end the job.

        Creates the row even if the job is gone or no longer ours; in the latter case raises StoreRefused, `stale_job`.
        """
        media = asdict(file) | {"bytes": str(file.bytes)}
        row = await self._call("wa_media_done", _job(job_id, owner) | {"p_media": media})
        if row["stale"]:
            raise StoreRefused("wa_media_done: stale_job", "stale_job")
        return MediaLinked(**known(MediaLinked, row))

    async def media_retry(
        self, job_id: int, owner: str, error: str, delay_seconds: float, descriptor: Json | None = None
    ) -> None:
        """Schedule another attempt. With a new descriptor the job no longer waits for the phone."""
        args = {"p_error": error, "p_delay_seconds": delay_seconds, "p_descriptor": descriptor and dict(descriptor)}
        await self._do("wa_media_retry", _job(job_id, owner) | args, "gone")

    async def media_ask_phone(self, job_id: int, owner: str, error: str) -> None:
        """Leave the job to the process that has the phone."""
        await self._do("wa_media_ask_phone", _job(job_id, owner) | {"p_error": error}, "gone")

    async def media_abandon(self, job_id: int, owner: str, status: str, code: str, error: str) -> None:
        """Give up: set `messages.media_status` to `status`, and audit `code` and the reason."""
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
        """Delete records of old deletions (docs/schema.md, "message_changes"). Returns whether there are more."""
        args = {"p_session": session, "p_older_than_seconds": older_than_seconds}
        return bool((await self._call("wa_prune_changes", args))["more"])

    async def expire(self, session: str, mode: ExpireMode, limit: int) -> Expired:
        """Remove messages that are due to disappear: their content, or the whole rows."""
        row = await self._call("wa_expire", {"p_session": session, "p_mode": mode, "p_limit": limit})
        return Expired(**known(Expired, row))

    async def due_refused(self, session: str, limit: int) -> list[int]:
        """Ids of waiting items that are due. Counts an attempt for each."""
        row = await self._call("wa_due_refused", {"p_session": session, "p_limit": limit})
        return [int(id_) for id_ in row["items"]]

    async def retry_refused(self, session: str, id_: int) -> str | None:
        """Store a refused item. Returns None on success, else the code of the reason."""
        row = await self._call("wa_retry_refused", {"p_session": session, "p_id": str(id_)})
        return None if row["taken"] else str(row["code"])

    async def analyze(self) -> list[str]:
        """Refresh the planner's statistics of tables that have changed much. Returns their names."""
        return [str(name) for name in (await self._call("wa_analyze", {}))["analyzed"]]

    async def status(self, session: str) -> dict[str, Any]:
        row = await self._call_again("wa_status", {"p_session": session})
        row["schema_version"]  # raises UnexpectedAnswer if something else answered
        return dict(row)

    async def _do(self, function: str, args: Mapping[str, Any], says: str = "done") -> None:
        """Call a function. The field `says` of its answer proves that the function itself answered."""
        row = await self._call(function, args)
        row[says]  # raises UnexpectedAnswer if it is missing

    async def _call(self, function: str, args: Mapping[str, Any], within: float | None = None) -> Any:
        """Make one call. `within`: a shorter time limit than the default, in seconds.

        Reports the outcome to the key watch. While the key counts as refused, only the cheapest call is sent.
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
        """`_call` with retries, for commands: even a good key gets a stray 401 now and then.

        Safe, because a call refused this way had no effect.
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
        # From a gateway. supabase-py returns text that is not JSON as a string.
        if not isinstance(answer.data, dict) or not answer.data:
            raise UnexpectedAnswer(f"{function}: the answer is not the function's")
        return _Row(function, answer.data)


class _Row(dict[str, Any]):
    """A function's answer. A missing field means that something else answered."""

    def __init__(self, function: str, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self._function = function

    def __missing__(self, name: str) -> Any:
        raise UnexpectedAnswer(f"{self._function}: the answer is not the function's, it lacks {name}")


@asynccontextmanager
async def connect_store(
    url: str, key: str, timeouts: Timeouts | None = None, *, sessions: int = 1
) -> AsyncIterator[Store]:
    """A store on this Supabase, sized for `sessions`. Sends nothing yet: `check` and `bucket.ensure` do that."""
    limits, lanes = timeouts or Timeouts(), Lanes(sessions)
    async with (
        database_client(url, key, connect=limits.connect, read=limits.call, connections=lanes.connections) as database,
        storage_client(url, key, connect=limits.connect, read=limits.transfer, connections=MEDIA_CONNECTIONS) as media,
    ):
        yield Store(database, media, limits, lanes)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _held(session: str, fence: int) -> dict[str, Any]:
    return {"p_session": session, "p_fence": str(fence)}


def _job(job_id: int, owner: str) -> dict[str, Any]:
    return {"p_job": str(job_id), "p_owner": owner}
