"""Faults of a gateway that answers in Supabase's place, without asking it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random

import anyio

from tests.chaos.proxy import Rule
from tests.chaos.stage import BACK_SECONDS, Stage, hit

JWT = b'{"code":"PGRST303","message":"JWT issued at future","details":null,"hint":null}'
NO_FUNCTION = b'{"code":"PGRST202","message":"Could not find the function","details":null,"hint":null}'
TIME_OUT = b'{"code":"57014","message":"canceling statement due to statement timeout","details":null,"hint":null}'
PAGE = b"<html><h1>Just a moment</h1></html>"
ODD = [
    *((status, body) for status in (200, 301, 403, 404, 413, 500, 540, 544) for body in (PAGE, b"", b"{}", b"[]")),
    (204, b""),
    (401, JWT),
    (404, NO_FUNCTION),
]
SIZE_LIMITS = (3_000, 10_000, 40_000)
ITEM_LIMITS = (3, 10)
PERIOD_SECONDS = 6.0
PERIOD_SECONDS_MAX = 90.0  # until a message is receipted behind all that is waiting already
ODD_EVERY = 5  # calls: one odd answer for so many
STATUSES = range(301, 545)


def every_answer(random: Random) -> Iterator[tuple[int, bytes]]:
    """Each status with JSON, a page, or nothing, shuffled; each status once before any comes twice."""
    bodies = (b"{}", PAGE, b"")
    for turn in range(len(bodies)):
        for status in random.sample(STATUSES, len(STATUSES)):
            yield status, bodies[(status + turn) % len(bodies)]


async def odd(stage: Stage) -> None:
    """A burst of answers that no Supabase gives, to every call."""
    await stage.connected()
    status, body = stage.random.choice(ODD)
    rule = Rule(kind="gateway", status=status, content=body, times=stage.random.randint(1, 8))
    stage.rig.proxy.arm(rule)
    await stage.traffic.burst(20)
    await stage.until(f"a call that is answered {status}", lambda: hit(rule))


async def size(stage: Stage) -> None:
    """For a while no request passes that is larger than this. One message alone is larger, and gets in meanwhile."""
    limit = stage.random.choice(SIZE_LIMITS)
    rule = Rule(kind="gateway", status=413, content=PAGE, larger_than=limit)
    try:
        await _meets(stage, rule)
        entry = await stage.traffic.long(2 * limit)
        await stage.rig.phone.wait_receipts([entry.id], seconds=PERIOD_SECONDS_MAX)
    finally:
        rule.ends = 0.0


async def slow(stage: Stage) -> None:
    """For a while batches of more than so many items time out."""
    limit = stage.random.choice(ITEM_LIMITS)
    rule = Rule(kind="gateway", status=500, content=TIME_OUT, more_items_than=limit)
    await _lasts(stage, rule)


async def content(stage: Stage) -> None:
    """For a while no request passes that shows about one message in sixteen, by its id."""
    mark = f'{stage.random.choice("0123456789ABCDEF")}","chat_id"'.encode()
    await _lasts(stage, Rule(kind="gateway", status=403, content=PAGE, mark=mark))


async def text(stage: Stage) -> None:
    """One message never passes, in whatever form: it is receipted, and listed with its bytes."""
    await stage.connected()
    message_id = f"DISLIKED{stage.random.randbytes(8).hex().upper()}"
    rule = stage.rig.proxy.arm(Rule(kind="gateway", status=403, content=PAGE, item_mark=message_id))
    try:
        await stage.traffic.burst(20)  # so that it is in a batch with others, as a rule
        entry = await stage.traffic.named(message_id, "disliked")
        await stage.rig.phone.wait_receipts([entry.id], seconds=PERIOD_SECONDS_MAX)
        rows = await stage.rig.database.rows("wa_refused_stanzas")
        if not any(row["wa_msg_id"] == entry.id and row["body"] for row in rows):
            stage.violations.append(("stored", f"{entry.id} never passed, was receipted, and is not listed"))
    finally:
        rule.ends = 0.0


async def _lasts(stage: Stage, rule: Rule) -> None:
    """The rule holds for a while, and traffic meets it."""
    rule.ends = time.monotonic() + PERIOD_SECONDS
    await _meets(stage, rule)
    while not rule.over:
        await stage.traffic.one()
        await anyio.sleep(0.5)


async def _meets(stage: Stage, rule: Rule) -> None:
    await stage.connected()
    stage.rig.proxy.arm(rule)
    await stage.traffic.burst(60)
    await stage.until("a batch that does not pass", lambda: hit(rule))


async def dies_between_parts(stage: Stage) -> None:
    """A batch that is too slow goes in parts, and the worker dies when the first of them is durable."""
    await stage.connected()
    before = await stage.logins()
    proxy = stage.rig.proxy
    slow = proxy.arm(Rule(kind="gateway", status=500, content=TIME_OUT, more_items_than=ITEM_LIMITS[0]))
    dies = Rule(kind="lost_answer", times=1, continues=slow, on_hit=lambda: stage.rig.kill_worker(stage.rig.primary))
    proxy.arm(dies)
    try:
        await stage.traffic.burst(60)
        await stage.until("a death between two parts", lambda: hit(dies), BACK_SECONDS)
    finally:
        slow.ends = dies.ends = 0.0
    await stage.logged_in_again(before)
