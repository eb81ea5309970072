"""WhatsApp as it is reported in 2026: backlogs that do not end, nacks that stick, deafness, other stanzas.

`tests/chaos/entry.py` shortens the worker's patience with a backlog from 60 s to `PATIENCE_SECONDS`.
"""

from __future__ import annotations

from tests.chaos.ledger import FORBIDDEN
from tests.chaos.stage import BACK_SECONDS, Stage

PATIENCE_SECONDS = 10.0
MEANWHILE = 20  # messages in a burst, so that something waits
MORE = 50  # announced, and never sent
STATUSES = 3
IN_SECONDS = 90.0  # five hundred newcomers may be before it


async def _waits_at_the_next_login(stage: Stage, *faults: tuple[str, dict[str, object]]) -> int:
    """Arm these, cut the connection in a burst; the logins before."""
    await stage.connected()
    before = await stage.logins()
    for kind, more in faults:
        await stage.rig.phone.fault(kind, **more)
    await stage.rig.phone.fault("drop", after=1)
    await stage.traffic.burst(MEANWHILE)
    return before


async def _one_more(stage: Stage) -> None:
    """Whatever the server does, the next message gets in."""
    entry = await stage.traffic.one()
    await stage.rig.phone.wait_receipts([entry.id], seconds=IN_SECONDS)


async def no_offline_end(stage: Stage) -> None:
    """The end of the backlog is not told; live traffic follows."""
    await stage.logged_in_again(await _waits_at_the_next_login(stage, ("no_offline_end", {})))
    await _one_more(stage)


async def endless_backlog(stage: Stage) -> None:
    """More is announced than comes, and no end is told: what is sent meanwhile gets in all the same."""
    more: dict[str, object] = {"extra": MORE}
    before = await _waits_at_the_next_login(stage, ("preview_more", more), ("no_offline_end", {"live": False}))

    async def logged_in() -> bool:
        return await stage.logins() > before

    await stage.until("another login", logged_in, BACK_SECONDS)
    await _one_more(stage)
    before = await stage.logins()
    await stage.rig.phone.fault("drop")
    await stage.logged_in_again(before)


async def never_settles(stage: Stage) -> None:
    """One stanza comes again at each login, whatever is answered; the rest gets in."""
    phone = stage.rig.phone
    for _ in range(2):
        before = await _waits_at_the_next_login(stage, ("offline_never_settles", {}))
        await stage.logged_in_again(before)
        await _one_more(stage)
    await phone.fault("clear")


async def nack_sticks(stage: Stage) -> None:
    """A server that withholds all behind a nacked message: undecryptable ones must not keep the rest away."""
    phone = stage.rig.phone
    await stage.connected()
    await phone.fault("nack_sticks")
    ids = await stage.attackers.garbage()
    await stage.until("an answer to garbage", lambda: stage.attackers.answered(ids), BACK_SECONDS)
    before = await stage.logins()
    await phone.fault("drop")
    await stage.logged_in_again(before)
    await _one_more(stage)
    await phone.fault("clear")


async def deaf_connection(stage: Stage) -> None:
    """Pings pass and nothing else comes, or nothing of groups; the next connection brings it."""
    phone = stage.rig.phone
    await stage.connected()
    before = await stage.logins()
    await phone.fault("deaf_connection", **({"groups": True} if stage.random.random() < 0.5 else {}))
    entry = await stage.traffic.one()

    async def waits() -> bool:
        return any(item["id"] == entry.id and not item["sent"] for item in await phone.offline())

    await stage.until("a message that is not sent", waits)
    await phone.fault("drop")
    await stage.logged_in_again(before)
    await phone.wait_receipts([entry.id], seconds=IN_SECONDS)


async def other_stanzas(stage: Stage) -> None:
    """Statuses, calls, channels, a notification of every type: each must be answered, and none is stored."""
    phone = stage.rig.phone
    await stage.connected()
    ids = [(await phone.send("Ana", "status", FORBIDDEN)).id for _ in range(STATUSES)]
    ids.append((await phone.send_raw({"from": "Ben", "to": "status", "text": FORBIDDEN, "as": "message"})).id)
    ids += await phone.notify()
    ids.append((await phone.post("/call", {"from": "Ana"}))["id"])
    ids.append((await phone.post("/newsletter", {"text": FORBIDDEN}))["id"])

    async def answered() -> bool:
        return set(ids) <= {item["id"] for item in await phone.receipts()}

    await stage.until("an answer to each", answered, BACK_SECONDS)
