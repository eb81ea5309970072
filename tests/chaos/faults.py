"""Every kind of fault: how it is done, and how one sees that it really happened.

Each is a coroutine that injects the fault, watches it take effect, and returns; `NotSeen` (or a wait that took too
long) says that it did not. Which comes when is `tests/chaos/deck.py`'s business, what must hold is that of
`tests/chaos/checks.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import gateway, whatsapp
from tests.chaos.proxy import Kind, Rule
from tests.chaos.rig import LEASE_SECONDS, Killer, Post, armed, gone, kill
from tests.chaos.stage import BACK_SECONDS, Inject, NotSeen, Stage, hit

BURST = 200
UPLOAD_BYTES = 600_000  # large enough to have a middle


# Processes


async def kill_sidecar(stage: Stage) -> None:
    await stage.connected()
    pid = await stage.rig.wait_sidecar()
    kill(pid)
    await gone(pid)
    await stage.rig.wait_sidecar(other_than=pid)


async def kill_worker(stage: Stage) -> None:
    await stage.connected()
    before = await stage.logins()
    stage.rig.kill_worker(stage.rig.primary)
    await stage.logged_in_again(before)


async def kill_supabase(stage: Stage) -> None:
    pid = stage.rig.server_pid()
    if pid is None:
        raise NotSeen("no embedded Supabase to kill")
    kill(pid)
    await gone(pid)
    await stage.rig.wait_supabase(other_than=pid)


async def kill_all(stage: Stage) -> None:
    """On the receipt of X everything dies at once, and X is looked for."""
    await stage.connected()
    rig = stage.rig
    entry = await stage.traffic.one()
    await rig.phone.wait_receipts([entry.id], seconds=BACK_SECONDS)
    sidecar, server = rig.sidecar_pid(), rig.server_pid()
    for pid in (server, sidecar, rig.primary.pid):
        if pid is not None:
            kill(pid)
    if sidecar is None or server is None:
        raise NotSeen("something was down already")
    await rig.wait_supabase(other_than=server)
    rows = await rig.database.messages(wa_msg_id=entry.id)
    if len(rows) != 1 or rows[0]["text"] != entry.text:
        stage.violations.append(("stored", f"{entry.id} was receipted, then everything was killed: {len(rows)} rows"))
    await stage.connected()


def _at_one(way: str, seconds: float) -> Inject:
    """The sidecar ends in this way at every delivery of one innocent message, which must be stored in the end."""

    async def inject(stage: Stage) -> None:
        await stage.connected()
        rig = stage.rig
        message_id = f"KILLER{stage.random.randbytes(8).hex().upper()}"
        killer = Killer(rig.folder, message_id, [way])
        try:
            entry = await stage.traffic.named(message_id, "killer")

            async def stored() -> bool:
                rows = await rig.database.messages(wa_msg_id=entry.id)
                return [row["text"] for row in rows] == [entry.text]

            try:
                await stage.until("the message to be stored", stored, seconds)
            except NotSeen:
                stage.violations.append(
                    ("stored", f"{entry.id} ended {killer.deaths} sidecars and is not in the table")
                )
            if killer.deaths < 2:
                raise NotSeen(f"the message ended {killer.deaths} sidecars")
        finally:
            killer.disarm()
        await stage.connected()

    return inject


# The database


def _database(
    kind: Kind, seconds: tuple[float, float], functions: Sequence[str | None] = (None, "wa_commit")
) -> Inject:
    """For a while all calls of one of `functions` go wrong; None: every call."""

    async def inject(stage: Stage) -> None:
        await stage.connected()
        lasts = stage.random.uniform(*seconds)
        function = stage.random.choice(functions)
        late = stage.random.uniform(0.5, 2.0)
        rule = Rule(kind=kind, function=function, ends=time.monotonic() + lasts, seconds=late)
        stage.rig.proxy.arm(rule)
        await stage.traffic.one()

        await stage.until(f"a call that meets {kind}", lambda: hit(rule), lasts + 2)

        async def over() -> bool:
            return rule.over

        await stage.until("its end", over, lasts + 2)

    return inject


async def db_lost_answer(stage: Stage) -> None:
    """The database commits, and the worker never hears of it."""
    await stage.connected()
    rule = stage.rig.proxy.arm(Rule(kind="lost_answer", function="wa_commit", times=stage.random.randint(1, 3)))
    await stage.traffic.burst(20)
    await stage.until("a commit whose answer is lost", lambda: hit(rule))


async def db_reset(stage: Stage) -> None:
    await stage.connected()
    rule = stage.rig.proxy.arm(Rule(kind="reset", times=stage.random.randint(3, 8)))
    await stage.traffic.one()
    await stage.until("connections that are reset", lambda: hit(rule))


async def db_outage(stage: Stage) -> None:
    """Longer than the worker's patience: it must leave WhatsApp, and come back when the database does."""
    await stage.connected()
    before = await stage.logins()
    lasts = LEASE_SECONDS + 2.0
    stage.rig.proxy.arm(Rule(kind="error_503", ends=time.monotonic() + lasts))
    await stage.traffic.one()

    async def away() -> bool:
        return not (await stage.rig.phone.state())["connected"]

    await stage.until("the worker to leave WhatsApp", away, lasts)
    await stage.logged_in_again(before)


# Strangers


def _attack(name: str) -> Inject:
    """Sent while the worker is connected. What no group message waits behind is answered last, so not looked for here.

    That everything gets an answer is what settling looks at.
    """

    async def inject(stage: Stage) -> None:
        await stage.connected()
        ids = await getattr(stage.attackers, name)()
        if name in GROUP_ATTACKS:
            await stage.until(f"an answer to {name}", lambda: stage.attackers.answered(ids), BACK_SECONDS)

    return inject


# Storage


async def storage_error(stage: Stage) -> None:
    rule = stage.rig.proxy.arm(Rule(kind="storage_error", times=stage.random.randint(1, 3)))
    await stage.traffic.fresh_file()
    await stage.until("an upload that is refused", lambda: hit(rule), BACK_SECONDS)


async def storage_cut(stage: Stage) -> None:
    """The connection breaks in the middle of an upload."""
    rule = stage.rig.proxy.arm(Rule(kind="storage_cut", times=1))
    await stage.traffic.fresh_file(UPLOAD_BYTES)
    await stage.until("an upload that is cut off", lambda: hit(rule), BACK_SECONDS)


# WhatsApp's side


async def socket_drop(stage: Stage) -> None:
    """TCP reset in the middle of a burst."""
    await _phone_fault(stage, "drop", burst=True, after=stage.random.randint(5, BURST // 2))


async def drop_before_read(stage: Stage) -> None:
    """The receipt has left, the server dies before it takes note."""
    await _phone_fault(stage, "drop_before_read", burst=True, after=stage.random.randint(1, 20))


async def stream_503(stage: Stage) -> None:
    await stage.connected()
    before = await stage.logins()
    await stage.rig.phone.fault("stream_error", code=503)
    await stage.logged_in_again(before)


async def stream_515(stage: Stage) -> None:
    await stage.connected()
    before = await stage.logins()
    await stage.rig.phone.fault("stream_error", code=515)
    await stage.logged_in_again(before)


async def http_503(stage: Stage) -> None:
    """The next upgrades are refused."""
    await stage.connected()
    before = await stage.logins()
    await stage.rig.phone.fault("http_503", times=2)
    await stage.rig.phone.fault("drop")
    await stage.logged_in_again(before)
    left = [fault["kind"] for fault in (await stage.rig.phone.state())["faults"]]
    if "http_status" in left:
        raise NotSeen("a login without having met the 503")


async def _phone_fault(stage: Stage, kind: str, *, burst: bool, **more: object) -> None:
    await stage.connected()
    phone = stage.rig.phone
    seen = len(await phone.log())
    before = await stage.logins()
    await phone.fault(kind, **more)
    if burst:
        await stage.traffic.burst(BURST)

    async def fired() -> bool:
        return any(
            item["kind"] == "fault" and item.get("fault") == kind and "connection" in item
            for item in (await phone.log())[seen:]
        )

    await stage.until(f"the fault {kind}", fired)
    await stage.logged_in_again(before)


# The CDN


def _cdn(mode: str) -> Inject:
    async def inject(stage: Stage) -> None:
        phone = stage.rig.phone

        async def seen() -> int:
            return sum(item["fault"] == mode for item in (await phone.media_requests())["items"])

        before = await seen()
        await phone.media_fault(mode, times=stage.random.randint(1, 2))
        await stage.traffic.fresh_file()

        async def more() -> bool:
            return await seen() > before

        await stage.until(f"a download that meets {mode}", more, BACK_SECONDS)

    return inject


# A second worker


async def second_worker(stage: Stage) -> None:
    """It waits; then the first one is told to stop, and the second takes over: a rolling deployment."""
    first, second = await _wait_in_line(stage)
    before = await stage.logins()
    await stage.rig.end_worker(first)
    await _takes_over(stage, second, before)


async def takeover(stage: Stage) -> None:
    """It waits; then the first one is killed, and the second takes over when the lease has run out."""
    first, second = await _wait_in_line(stage)
    before = await stage.logins()
    stage.rig.kill_worker(first, kept=False)
    await _takes_over(stage, second, before)


async def _wait_in_line(stage: Stage) -> tuple[Post, Post]:
    await stage.connected()
    rig = stage.rig
    first = rig.primary
    second = rig.start_worker(first.settings)
    seen = len(rig.proxy.leases)

    async def refused() -> bool:
        return any(f":{second.pid}:" in call.owner for call in rig.proxy.leases[seen:])

    await stage.until("the second worker to ask for the lease", refused, BACK_SECONDS)
    return first, second


async def _takes_over(stage: Stage, second: Post, before: int) -> None:
    await stage.logged_in_again(before)
    if stage.rig.sidecar_pid(second) is None:
        raise NotSeen("the second worker has no sidecar")


# Named crash points


def _crash(point: str, *, of: str, files: bool = False) -> Inject:
    """The process dies at exactly this place."""

    async def inject(stage: Stage) -> None:
        await stage.connected()
        rig = stage.rig
        pid = await rig.wait_sidecar() if of == "sidecar" else rig.primary.pid
        before = await stage.logins()
        trigger = rig.arm(point)
        try:
            if files:
                await stage.traffic.fresh_file()
            else:
                await stage.traffic.burst(20)
            await _taken(stage, trigger, point)
        finally:
            trigger.unlink(missing_ok=True)
        await gone(pid)
        await stage.logged_in_again(before)

    return inject


async def _taken(stage: Stage, trigger: Path, point: str) -> None:
    async def probe() -> bool:
        return not armed(trigger)

    await stage.until(f"a crash at the point {point}", probe, BACK_SECONDS)


async def crash_mid_upload(stage: Stage) -> None:
    """The worker dies when half of an object is with Supabase."""
    await stage.connected()
    before = await stage.logins()
    rule = Rule(kind="storage_cut", times=1, on_hit=lambda: stage.rig.kill_worker(stage.rig.primary))
    stage.rig.proxy.arm(rule)
    await stage.traffic.fresh_file(UPLOAD_BYTES)
    await stage.until("a crash in mid-upload", lambda: hit(rule), BACK_SECONDS)
    await stage.logged_in_again(before)


GROUP_ATTACKS = ("garbage", "revoke", "crowd")
ATTACKS = ("forge", "flood", *GROUP_ATTACKS)
# One at a time: each of these ends a connection or a process, or holds the database up.
MAIN: dict[str, Inject] = {
    "kill_sidecar": kill_sidecar,
    "kill_worker": kill_worker,
    "kill_supabase": kill_supabase,
    "kill_all": kill_all,
    "killed_at_one": _at_one("SIGKILL", 100.0),
    "dies_at_one": _at_one("exit", 60.0),
    "db_error": _database("error_500", (1.0, 3.0)),
    "commit_error": _database("error_500", (LEASE_SECONDS, LEASE_SECONDS + 1.0), ("wa_commit",)),
    "db_hang": _database("hang", (1.5, 2.5)),
    "db_late": _database("late", (2.0, 4.0)),
    "db_lost_answer": db_lost_answer,
    "db_reset": db_reset,
    "gateway_odd": gateway.odd,
    "gateway_size": gateway.size,
    "gateway_slow": gateway.slow,
    "gateway_content": gateway.content,
    "gateway_text": gateway.text,
    "dies_between_parts": gateway.dies_between_parts,
    "db_outage": db_outage,
    "socket_drop": socket_drop,
    "drop_before_read": drop_before_read,
    "stream_503": stream_503,
    "stream_515": stream_515,
    "http_503": http_503,
    "no_offline_end": whatsapp.no_offline_end,
    "endless_backlog": whatsapp.endless_backlog,
    "never_settles": whatsapp.never_settles,
    "nack_sticks": whatsapp.nack_sticks,
    "deaf_connection": whatsapp.deaf_connection,
    "other_stanzas": whatsapp.other_stanzas,
    "second_worker": second_worker,
    "takeover": takeover,
    "crash_inside": _crash("inside", of="sidecar"),
    "crash_committed": _crash("committed", of="worker"),
    "crash_answered": _crash("answered", of="sidecar"),
    "crash_released": _crash("released", of="sidecar"),
    "crash_mid_upload": crash_mid_upload,
    "crash_uploaded": _crash("uploaded", of="worker", files=True),
}
# Beside them, at any time.
SIDE: dict[str, Inject] = {
    "cdn_404": _cdn("404"),
    "cdn_410": _cdn("410"),
    "cdn_stall": _cdn("stall"),
    "cdn_truncate": _cdn("truncate"),
    "cdn_flip": _cdn("flip"),
    "storage_error": storage_error,
    "storage_cut": storage_cut,
    **{f"attack_{name}": _attack(name) for name in ATTACKS},
}
