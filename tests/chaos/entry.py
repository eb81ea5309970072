"""The worker as chaos runs start it: `python -m tests.chaos.entry run`. The product knows nothing of it.

Patches the product's public functions from outside, then runs it. Two uses: crash points (die by SIGKILL when the file
`$CHAOS_FOLDER/crash/<point>` exists, which the one crash removes), and sabotage (`$CHAOS_SABOTAGE`, break exactly one
thing, to see that the check for it fails).
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.chaos.whatsapp import PATIENCE_SECONDS
from worker import supervisor
from worker.bridge.protocol import Pong
from worker.ingest.batch_writer import BatchWriter, _Parting
from worker.ingest.parts import rest_of
from worker.media import jobs, steps
from worker.media.download import Limits
from worker.session import backoff as crashes
from worker.session import connection
from worker.session.flags import Monitored
from worker.session.high_water import HighWater
from worker.store import Bucket, MonitoredGroups, Store
from worker.store.rows import Batch

FOLDER = Path(os.environ["CHAOS_FOLDER"])
SABOTAGE = os.environ.get("CHAOS_SABOTAGE", "")
PARENT_LOOK_SECONDS = 0.5


def die(point: str) -> None:
    """SIGKILL to ourselves, if this point is armed."""
    try:
        (FOLDER / "crash" / point).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def place_crash_points() -> None:
    commit, media_done = Store.commit, Store.media_done

    async def committed(self: Store, session: str, batch: Batch) -> Any:
        done = await commit(self, session, batch)
        if batch.messages:
            die("committed")  # durable, and nobody has been told
        return done

    async def uploaded(self: Store, *args: Any, **more: Any) -> Any:
        die("uploaded")  # the object is in the bucket, its row is not there
        return await media_done(self, *args, **more)

    Store.commit = committed  # type: ignore[method-assign]
    Store.media_done = uploaded  # type: ignore[method-assign]


class Everything(frozenset[str]):
    """A set of groups that has every group in it."""

    def __contains__(self, group: object) -> bool:
        return isinstance(group, str) and group.endswith("@g.us")


def sabotage_commits(spoil: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Each message on its way into the database goes through `spoil`; None: it is lost."""
    commit, commit_part = Store.commit, Store.commit_part

    def spoiled(batch: Batch) -> Batch:
        messages = [found for message in batch.messages if (found := spoil(dict(message))) is not None]
        return replace(batch, messages=messages)

    async def whole(self: Store, session: str, batch: Batch) -> Any:
        return await commit(self, session, spoiled(batch))

    async def part(self: Store, session: str, batch: Batch) -> Any:
        return await commit_part(self, session, spoiled(batch))

    Store.commit = whole  # type: ignore[method-assign]
    Store.commit_part = part  # type: ignore[method-assign,assignment]


def sabotage_uploads(spoil: Callable[[Bucket, str, bytes, str], Awaitable[None]]) -> None:
    async def spoiled(self: Bucket, path: str, content: bytes | Path, mime: str) -> None:
        await spoil(self, path, _whole(content), mime)

    Bucket.upload = spoiled  # type: ignore[method-assign]


def _whole(content: bytes | Path) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content


def sabotage(what: str) -> None:
    upload = Bucket.upload

    async def flipped(bucket: Bucket, path: str, content: bytes, mime: str) -> None:
        await upload(bucket, path, content[:-1] + bytes([content[-1] ^ 1]), mime)

    async def doubled(bucket: Bucket, path: str, content: bytes, mime: str) -> None:
        await upload(bucket, path, content, mime)
        await upload(bucket, path + ".copy", content, mime)

    async def skipped(bucket: Bucket, path: str, content: bytes, mime: str) -> None:
        pass

    def all_groups(self: Monitored, now: MonitoredGroups) -> None:
        self.groups, self.version = Everything(), now.version

    take_mark = HighWater.take

    def half_a_minute_ahead(self: HighWater, pong: Pong) -> None:
        take_mark(self, pong)
        if self.value is not None:
            self.value = self.value[0], self.value[1] + timedelta(seconds=30)

    in_order = _Parting.run

    async def keys_first(parting: _Parting) -> Any:
        await parting._writer.whole(rest_of(parting._batch))
        return await in_order(parting)

    commit_part, in_pieces = Store.commit_part, BatchWriter.in_pieces

    async def unlisted(self: Store, session: str, part: Batch) -> Any:
        return await commit_part(self, session, replace(part, refused=()))

    async def no_pieces(self: BatchWriter, part: Batch, *, last: bool) -> Any:
        return await in_pieces(self, part if last else replace(part, messages=(), opaque=()), last=last)

    match what:
        case "lost":  # about one message in ten never reaches the database
            sabotage_commits(lambda message: None if message["wa_msg_id"].endswith(("7", "A")) else message)
        case "text":  # texts arrive without their last character
            sabotage_commits(lambda message: message | {"text": message["text"] and message["text"][:-1]})
        case "keys_first":
            _Parting.run = keys_first  # type: ignore[method-assign,assignment]
        case "unlisted":
            Store.commit_part = unlisted  # type: ignore[method-assign]
        case "pieces":
            BatchWriter.in_pieces = no_pieces  # type: ignore[method-assign]
        case "hash":
            sabotage_uploads(flipped)
        case "twice":
            sabotage_uploads(doubled)
        case "object":
            sabotage_uploads(skipped)
        case "early":
            HighWater.take = half_a_minute_ahead  # type: ignore[method-assign]
        case "monitor":
            Monitored.take = all_groups  # type: ignore[method-assign]


def hurry() -> None:
    """Shorter waits, so that a run of minutes sees what takes hours: backoffs, leases, patience. No other behaviour."""
    steps.BACKOFF_FIRST_SECONDS = 1.0
    steps.BACKOFF_MAX_SECONDS = 3.0
    connection.OFFLINE_HOLD_MS = int(PATIENCE_SECONDS * 1000)
    supervisor.PING_EVERY_SECONDS = 1.0  # type: ignore[attr-defined]  # the high-water mark comes with the answer
    crashes.LOOP_AFTER = 1_000_000  # a sidecar that is killed all the time is no news here
    _default(jobs.ClaimOptions, lease_seconds=5.0)
    _default(Limits, read_s=2.0)


def _default(of: type, **values: object) -> None:
    defaults = of.__init__.__kwdefaults__  # type: ignore[misc]
    assert defaults is not None
    assert values.keys() <= defaults.keys(), f"{of.__name__} has changed: tests/chaos/entry.py must follow"
    defaults.update(values)


def follow_parent() -> None:
    """End when whoever started us has gone: a chaos run that is killed leaves no worker behind."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True).start()


if __name__ == "__main__":
    follow_parent()
    hurry()
    sabotage(SABOTAGE)
    place_crash_points()
    sys.argv[0] = "wa-worker"
    runpy.run_module("worker", run_name="__main__")
