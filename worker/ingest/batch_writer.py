"""Makes one batch durable, whatever gateways are in the way.

Sends the whole batch first. If this request keeps failing while the cheapest call succeeds, it sends the batch in
parts under the same number: items first, halving as needed, then the rest. It resends an item that fails alone as
base64, which no gateway can read; if that fails too, it lists the item as waiting. If nothing succeeds, it is an
outage: it lists nothing and repeats everything. A time-out counts as a failure of the request if the cheapest call
succeeds afterwards. Items that timed out alone are remembered across connections (`slow_items`).
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import anyio
from loguru import logger

from worker.errors import StoreError, StoreRefused, StoreUnavailable, TooLarge, TooSlow
from worker.ingest.parts import (
    SMALLEST_BYTES,
    Item,
    PartSizes,
    changes_of,
    digest_of,
    messages_of,
    number_of,
    part_of,
    pieces_of,
    rest_of,
    size_of,
)
from worker.ingest.slow_items import TIMEOUTS_BELIEVED, SlowItems
from worker.store import Batch, Committed, Piece, Pieces
from worker.store.availability import DatabaseWatch
from worker.store.retry import PAUSE_MAX_SECONDS, REFUSALS_BELIEVED, until_answered
from worker.store.session import SessionStore

TOO_LARGE_BELIEVED = 2  # in a row; a stray 413 would shrink all later parts
ITEMS_TO_AN_OUTAGE = 8  # failing alone before any succeeds: an outage; do not try all 500
LONE_ROUNDS = 5  # with one item, a fault of the item looks like an outage: full attempts before listing it
COUNTS = ("stored", "upgraded", "duplicates", "skipped", "jobs", "refused", "waiting", "changed", "held")

Call = Callable[[], Awaitable[Committed]]


class _Fails(Exception):
    """This request keeps failing while others succeed."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(str(error))
        self.error = error


class _Outage(Exception):
    """No part of the batch succeeds."""


class BatchWriter:
    """Writes batches, one at a time. Remembers how large a request may be, and which items are too slow."""

    def __init__(self, store: SessionStore, watch: DatabaseWatch, sizes: PartSizes | None = None) -> None:
        self._store = store
        self._watch = watch
        self.sizes = sizes or PartSizes()
        self.slow = SlowItems()

    async def write(self, batch: Batch) -> Committed:
        """Write a batch. Returns once it is durable.

        Raises:
            StaleFence, StaleEpoch, SequenceGap: as `Store.commit`.
            StoreRefused: the database refuses something other than a message or a change: keys, credentials, hashes.
        """
        batch = replace(batch, digest=digest_of(batch))
        if self.sizes.admits(batch) and not any(self.slow.as_it_is(item) for item in _items_of(batch)):
            try:
                return await self.whole(batch)
            except _Fails as failing:
                logger.warning(
                    "the database does not accept a batch of {} items ({}); sending it in parts",
                    len(batch.messages) + len(batch.changes),
                    failing,
                )
        for tried in itertools.count():
            try:
                return await _Parting(self, batch, believe_one=tried >= LONE_ROUNDS).run()
            except _Outage:
                await anyio.sleep(random.uniform(0, PAUSE_MAX_SECONDS))  # noqa: S311 - a pause
        raise AssertionError("unreachable")

    async def whole(self, batch: Batch) -> Committed:
        return await self._send(batch, lambda: self._store.commit(batch))

    async def part(self, part: Batch) -> Committed:
        return await self._send(part, lambda: self._store.commit_part(part))

    async def in_pieces(self, part: Batch, *, last: bool) -> Committed:
        """Send a part (or the last part) in pieces that are small enough."""
        while True:
            size = self.sizes.piece
            document, bodies = pieces_of(part, size)
            try:
                for n, body in enumerate(bodies):
                    piece = Piece(batch=number_of(part), document=document, piece=n, body=body)
                    done = await self._answer(part, lambda piece=piece: self._store.put_piece(piece))  # type: ignore[misc]
                    if done.duplicate:
                        return done
                pieces = Pieces(batch=number_of(part), document=document, pieces=len(bodies), last=last)
                done = await self._answer(part, lambda pieces=pieces: self._store.commit_pieces(pieces))  # type: ignore[misc]
                self.sizes.passed(part)
                return done
            except _Fails as failing:
                if not isinstance(failing.error, TooLarge) or size < SMALLEST_BYTES:
                    raise
                self.sizes.too_large(size)

    async def _send(self, batch: Batch, call: Call) -> Committed:
        """Send, and remember whether this size succeeds."""
        try:
            done = await self._answer(batch, call)
        except _Fails as failing:
            if isinstance(failing.error, TooLarge):
                self.sizes.too_large(size_of(batch))
            elif isinstance(failing.error, TooSlow) and len(batch.messages) + len(batch.changes) > 1:
                self.sizes.too_slow(len(batch.messages) + len(batch.changes))
                self.slow.forget_several()
            raise
        self.sizes.passed(batch)
        self.slow.passed(batch)
        return done

    async def _answer(self, part: Batch, call: Call) -> Committed:
        """Repeat the call until it is answered. `part`: what it sends.

        Raises:
            _Fails: it failed several times in a row while the cheapest call succeeded each time.
        """
        failures = 0

        async def once() -> Committed:
            nonlocal failures
            try:
                return await self._watch.observe("commit", call())
            except (StoreRefused, StoreUnavailable) as error:
                believed = _needs_no_look(error) or await self._others_pass()
                failures = failures + 1 if believed else 0
                if believed and isinstance(error, TooSlow):
                    self._watch.answered("commit")  # the database does answer, just too slowly
                    failures = max(failures, self.slow.timed_out(part))
                if failures < _believed(error):
                    raise StoreUnavailable(str(error)) from error
                raise _Fails(error) from error

        return await until_answered(once)

    async def _others_pass(self) -> bool:
        try:
            await self._store.cheapest_call()
        except StoreError:
            return False
        return True


class _Parting:
    """One attempt to write a batch in parts. `believe_one`: if the only item fails, list it."""

    def __init__(self, writer: BatchWriter, batch: Batch, *, believe_one: bool) -> None:
        self._writer = writer
        self._batch = batch
        self._believe_one = believe_one
        self._counts: Counter[str] = Counter()
        self._passed = 0
        self._alone = 0

    async def run(self) -> Committed:
        """Write the whole batch. Messages go before changes, which refer to them.

        Raises:
            _Outage: nothing succeeded.
        """
        for items in (messages_of(self._batch), changes_of(self._batch)):
            failing: list[tuple[Item, StoreError]] = []
            slow = [item for item in items if self._writer.slow.as_it_is(item)]
            rest: Sequence[Item] = [item for item in items if item not in slow]
            while rest:
                count = self._writer.sizes.first(self._batch, rest)
                failing += await self._items(rest[:count])
                rest = rest[count:]
            for item in slow:
                failing += await self._opaque(item)
            if failing:
                await self._list(failing, len(items))
        done = await self._last(rest_of(self._batch))
        if done.duplicate:
            return done
        self._note(done)
        return replace(done, **{name: self._counts[name] for name in COUNTS})  # type: ignore[arg-type]

    async def _items(self, items: Sequence[Item]) -> list[tuple[Item, StoreError]]:
        """Write these items. Returns those that fail even alone."""
        part = part_of(self._batch, items)
        if len(items) > 1 or self._writer.sizes.admits(part):
            try:
                self._note(await self._writer.part(part))
            except _Fails:
                if len(items) > 1:
                    half = len(items) // 2
                    return await self._items(items[:half]) + await self._items(items[half:])
            else:
                self._passed += len(items)
                return []
        return await self._opaque(items[0])

    async def _opaque(self, item: Item) -> list[tuple[Item, StoreError]]:
        if self._writer.slow.as_base64(item):
            return [(item, TooSlow("timed out alone repeatedly"))]
        part = replace(number_of(self._batch), opaque=[item.as_base64()])
        try:
            self._note(await self._large(part))
        except _Fails as failing:
            self._alone += 1
            if self._passed == 0 and self._alone >= ITEMS_TO_AN_OUTAGE:
                raise _Outage from failing
            return [(item, failing.error)]
        self._writer.slow.forget(item)
        self._passed += 1
        return []

    async def _list(self, failing: Sequence[tuple[Item, StoreError]], count: int) -> None:
        """List these items as waiting, unless it looks like an outage, or one that has just ended."""
        believe_one = self._believe_one or self._writer.slow.as_base64(failing[0][0])
        if self._passed == 0 and (count > 1 or not believe_one):
            raise _Outage
        still = [each for item, _ in failing for each in await self._opaque(item)]
        for item, error in still:
            waiting = item.as_base64(_code(error), str(error), "waiting")
            try:
                self._note(await self._large(replace(number_of(self._batch), refused=[waiting])))
            except _Fails as fails:
                self._writer.slow.forget(item)  # the database is slow, not the item
                raise _Outage from fails
            self._writer.slow.forget(item)
            self._counts["waiting"] += 1

    async def _large(self, part: Batch) -> Committed:
        """Send a part, in pieces if it is too large for one request."""
        if self._writer.sizes.admits(part):
            try:
                return await self._writer.part(part)
            except _Fails as failing:
                if not isinstance(failing.error, TooLarge):
                    raise
        return await self._writer.in_pieces(part, last=False)

    async def _last(self, rest: Batch) -> Committed:
        try:
            if self._writer.sizes.admits(rest):
                try:
                    return await self._writer.whole(rest)
                except _Fails as failing:
                    if isinstance(failing.error, TooSlow):
                        raise
            return await self._writer.in_pieces(rest, last=True)
        except _Fails as failing:
            if isinstance(failing.error, StoreRefused):
                raise failing.error from None
            raise _Outage from failing

    def _note(self, done: Committed) -> None:
        self._counts.update({name: getattr(done, name) for name in COUNTS})


def _items_of(batch: Batch) -> list[Item]:
    return [*messages_of(batch), *changes_of(batch)]


def _needs_no_look(error: StoreError) -> bool:
    """Whether the error alone proves that the request is at fault: refused by our client, or a 413."""
    return isinstance(error, TooLarge) or (isinstance(error, StoreRefused) and error.code == "client")


def _believed(error: StoreError) -> int:
    """How many failures in a row prove that the request is at fault."""
    if isinstance(error, TooLarge):
        return TOO_LARGE_BELIEVED
    if isinstance(error, TooSlow):
        return TIMEOUTS_BELIEVED
    return 1 if _needs_no_look(error) else REFUSALS_BELIEVED


def _code(error: StoreError) -> str:
    return error.code if isinstance(error, StoreRefused) else type(error).__name__
