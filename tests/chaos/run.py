"""A chaos run from its first process to its verdict: wide phase, settling, the phase on defaults, settling, checks."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import anyio

from testkit.waiting import TookTooLong, until
from tests.chaos import faults, gateway
from tests.chaos.attackers import Attackers
from tests.chaos.checks import Evidence, check_all
from tests.chaos.coverage import LOOK_SECONDS, LOOK_SECONDS_SABOTAGED, Witness, read_settled
from tests.chaos.deck import Deck, Tally
from tests.chaos.ledger import Ledger
from tests.chaos.proxy import Rule
from tests.chaos.report import Result
from tests.chaos.rig import WIDE, Rig, kill, open_rig
from tests.chaos.sabotage import SABOTAGES
from tests.chaos.stage import Stage
from tests.chaos.traffic import WEIGHTS, Traffic

START_SECONDS = 90.0
SETTLE_SECONDS = 90.0  # a backlog of some thousand messages, files that wait for their next attempt
SABOTAGED_SETTLE_SECONDS = 15.0  # some sabotage never settles
MAIN_PAUSE = (0.2, 1.5)
SHORT_PAUSE = (0.1, 0.4)
SIDE_PAUSE = (1.0, 4.0)
DEFAULTS_SECONDS = 5.0
OLD_MESSAGES = 25
OLD_SECONDS = 300  # beyond the live window of 30 s
SABOTAGE_SECONDS = 6.0
MEMBERS_MESSAGES = 40
MEMBERS_PAUSE_SECONDS = 0.2
OVERTIME = 2.0  # a kind that was not seen yet may take the run to so many times its length
OVERTIME_SECONDS = 420.0  # or so much, for a short run
PROGRESS_SECONDS = 5.0
LONG_TEXT = 10_000  # characters; left out of the file that is kept
TABLES = ("wa_refused_stanzas", "audit_log", "media_jobs", "wa_sessions", "groups", "runtime_flags", "wa_identities")


@dataclass(frozen=True, kw_only=True)
class Options:
    """`seconds`: of the wide phase, which lasts until every fault was seen once.

    `all_faults`: with a sabotage, too (to see what it would cost).
    """

    seconds: float
    seed: int
    sabotage: str = ""
    all_faults: bool = False

    @property
    def only_traffic(self) -> bool:
        """A sabotage by itself: traffic, and just those faults that bring it to light."""
        return bool(self.sabotage) and not self.all_faults


async def chaos(options: Options, folder: Path, say: Callable[[str], None]) -> Result:
    """Run, and judge. The result holds every violation; it raises only if the run itself could not be made."""
    started = time.monotonic()
    result = Result(seed=options.seed)
    random = Random(f"{options.seed}:faults")  # noqa: S311 - repeatable on purpose
    ledger = Ledger()

    def tell(line: str) -> None:
        say(f"[{time.monotonic() - started:5.0f} s] {line}")

    async with open_rig(folder, options.seed, options.sabotage) as rig:
        traffic = Traffic(rig.phone, ledger, options.seed, bursts=40 if options.only_traffic else 120)
        attackers = Attackers(rig.phone, ledger, traffic, options.seed)
        stage = Stage(rig=rig, traffic=traffic, attackers=attackers, random=random)
        async with anyio.create_task_group() as witnesses:
            witnesses.start_soon(rig.sample)
            witnesses.start_soon(_progress, rig, ledger, tell)
            witness = Witness(rig.database, ledger, LOOK_SECONDS_SABOTAGED if options.sabotage else LOOK_SECONDS)
            witnesses.start_soon(witness.run)
            await _link(rig, traffic, attackers)
            tell("linked; the traffic begins")
            try:
                unsettled = await _act(options, stage, witness, traffic, result, random, tell)
                tell("settled; looking at everything" if not unsettled else f"NOT settled: {unsettled}")
                evidence = await _gather(rig, ledger, unsettled, witness)
                if missing := len(await attackers.unanswered()):
                    evidence.unsettled.append(f"{missing} stanzas of attackers have no answer")
                debts = Counter(item["tag"] for item in await rig.phone.log() if item["kind"] == "debt")
                evidence.unsettled += [f"{n} streams ended for a {tag} without an answer" for tag, n in debts.items()]
            finally:
                witnesses.cancel_scope.cancel()
        result.logins = int((await rig.phone.state())["logins"])
    _keep(folder, evidence)
    result.violations = [*stage.violations, *check_all(evidence)]
    if not options.sabotage:
        result.violations += _missing(result, ledger, rig.proxy.calls["wa_get_keys"])
        if not witness.looks:
            result.violations.append(("covered", "there was never a high-water mark to look at"))
    result.violations += [("processes", f"process {pid} is left") for pid in rig.orphans()]
    _fill(result, rig, ledger, evidence)
    result.seconds = time.monotonic() - started
    return result


async def _link(rig: Rig, traffic: Traffic, attackers: Attackers) -> None:
    """People, groups, a worker, the scan; four of the six groups are switched on."""
    await traffic.found()
    await attackers.found()
    post = rig.start_worker(WIDE)
    qr = await rig.database.wait_qr(seconds=START_SECONDS, tell=post.worker.child.tail)
    await rig.phone.scan(qr)
    await rig.phone.wait_for("connected", seconds=START_SECONDS)
    await rig.database.wait_groups(traffic.ledger.groups, seconds=START_SECONDS, tell=post.worker.child.tail)
    await rig.database.monitor(traffic.ledger.monitored)
    await rig.database.fetch_groups(seconds=START_SECONDS, tell=post.worker.child.tail)
    await traffic.warm_up()


async def _act(
    options: Options,
    stage: Stage,
    witness: Witness,
    traffic: Traffic,
    result: Result,
    random: Random,
    tell: Callable[[str], None],
) -> list[str]:
    begun = time.monotonic()
    tally = result.tally
    async with anyio.create_task_group() as talking:
        talking.start_soon(traffic.run)
        if options.only_traffic:
            await _sabotaged(options, stage, witness, tally, random, tell)
        else:
            ends = begun + options.seconds
            latest = begun + max(OVERTIME * options.seconds, options.seconds + OVERTIME_SECONDS)
            answers = gateway.every_answer(Random(random.random()))  # noqa: S311
            odd = stage.rig.proxy.arm(Rule(kind="gateway", answers=answers, every=gateway.ODD_EVERY))
            async with anyio.create_task_group() as dealing:
                main_pause = MAIN_PAUSE if options.seconds else SHORT_PAUSE
                for kinds, pause in ((faults.MAIN, main_pause), (faults.SIDE, SIDE_PAUSE)):
                    deck = Deck(kinds, Random(random.random()), tally, tell, pause)  # noqa: S311
                    dealing.start_soon(deck.deal, stage, ends, latest)
            result.odd_answers = odd.hits
        await traffic.stop()
        talking.cancel_scope.cancel()
    tell("the faults are over; settling")
    unsettled = await _settle(
        stage.rig, traffic.ledger, SABOTAGED_SETTLE_SECONDS if options.sabotage else SETTLE_SECONDS
    )
    if options.only_traffic and not SABOTAGES[options.sabotage].on_defaults:
        return unsettled
    if not unsettled and not options.only_traffic:
        tell("members' messages against the clock: without an attack, and with one")
        result.control_ms = await _members_take(stage)
        result.attacked_ms = await _under_attack(stage)
        unsettled = await _settle(stage.rig, traffic.ledger, SETTLE_SECONDS)
    if not unsettled:
        tell("now on the default settings")
        await _on_defaults(stage, traffic)
        unsettled = await _settle(stage.rig, traffic.ledger, SETTLE_SECONDS)
    return unsettled


async def _sabotaged(
    options: Options, stage: Stage, witness: Witness, tally: Tally, random: Random, tell: Callable[[str], None]
) -> None:
    """Traffic of every kind, and only the faults that bring this sabotage to light."""
    kinds = {**faults.MAIN, **faults.SIDE}
    await witness.marked(seconds=START_SECONDS)
    for name in SABOTAGES[options.sabotage].faults:
        deck = Deck({name: kinds[name]}, random, tally, tell, MAIN_PAUSE)
        await deck.deal(stage, time.monotonic() + 1.0, time.monotonic() + 60.0)
    await anyio.sleep(SABOTAGE_SECONDS)
    for kind in ("file", "same_file", "burst"):
        await stage.traffic.say(kind)


async def _members_take(stage: Stage) -> list[float]:
    """Milliseconds from the sending of each of some messages of members to its receipt, shortest first."""
    sent: dict[str, float] = {}
    for _ in range(MEMBERS_MESSAGES):
        at = time.time() * 1000
        sent[(await stage.traffic.one()).id] = at
        await anyio.sleep(MEMBERS_PAUSE_SECONDS)
    receipts = await stage.rig.phone.wait_receipts(sorted(sent), seconds=SETTLE_SECONDS)
    return sorted(float(item["at_ms"]) - sent[item["id"]] for item in receipts if item["id"] in sent)


async def _under_attack(stage: Stage) -> list[float]:
    """As `_members_take`, while every attacker attacks."""
    times: list[float] = []
    async with anyio.create_task_group() as attacks:
        for attack in faults.ATTACKS:
            attacks.start_soon(getattr(stage.attackers, attack))
        times += await _members_take(stage)
    return times


async def _on_defaults(stage: Stage, traffic: Traffic) -> None:
    """WORKER_CATCH_UP_S = 0: what waited too long is discarded and counted; what is live is stored."""
    rig = stage.rig
    for post in list(rig.posts):
        await rig.end_worker(post)
    traffic.ledger.phase = "defaults"
    await traffic.old_news(OLD_MESSAGES, OLD_SECONDS, int(time.time()))
    rig.start_worker({})
    await stage.connected()
    ends = time.monotonic() + DEFAULTS_SECONDS
    while time.monotonic() < ends:
        await traffic.say(stage.random.choice(("text", "own", "shared_id", "unmonitored", "duplicate")))
    sidecar = rig.sidecar_pid()
    if sidecar:
        kill(sidecar)
    await traffic.say("text")
    await stage.connected()


async def _settle(rig: Rig, ledger: Ledger, seconds: float) -> list[str]:
    """End all faults and wait until nothing is on its way any more; what still was when the time was over."""
    rig.proxy.clear()
    rig.disarm()
    await rig.phone.fault("clear")
    await rig.phone.media_fault("clear")
    open_ends: dict[str, object] = {}

    async def quiet() -> bool:
        state = await rig.phone.state()
        jobs = await rig.database.rows("media_jobs")
        pending = await rig.database.messages(pending=True)
        open_ends.update(
            connected=state["connected"],
            offline_queue=state["offline_queue"],
            media_jobs=[(job["attempts"], job["last_error"]) for job in jobs][:3],
            stubs=[row["wa_msg_id"] for row in pending if ledger.name(row["sender"]) not in ledger.attackers],
        )
        return bool(state["connected"]) and not state["offline_queue"] and not jobs and not open_ends["stubs"]

    try:
        await until("quiet", quiet, seconds=seconds, every=0.5)
    except TookTooLong:
        return [json.dumps(open_ends, default=str)]
    return []


async def _gather(rig: Rig, ledger: Ledger, unsettled: list[str], witness: Witness) -> Evidence:
    database = rig.database
    rig.look()
    coverage = await read_settled(database, sorted(ledger.monitored))
    objects = {path: await database.download(path) for path in await database.objects()}
    discards = {row["reason"]: int(row["count"]) for row in await database.rows("wa_discards")}
    return Evidence(
        ledger=ledger,
        receipts=await rig.phone.receipts(),
        messages=await database.rows("messages", order="id"),
        media=await database.rows("media", order="id"),
        objects=objects,
        others={table: await database.rows(table) for table in TABLES},
        discards=discards,
        commits=rig.proxy.commits,
        known=rig.proxy.known,
        leases=rig.proxy.leases,
        leaks=rig.proxy.leaks,
        leaked_files=rig.leaked_onto_disk(),
        peak_bytes=dict(rig.peak_bytes),
        unsettled=unsettled,
        coverage=coverage,
        unmarked=witness.broken,
    )


def _keep(folder: Path, evidence: Evidence) -> None:
    """What the checks looked at, for whoever wants to know how a violation came about."""
    found = {
        "sent": [asdict(entry) for entry in evidence.ledger.entries if len(entry.text or "") < LONG_TEXT],
        "receipts": evidence.receipts,
        "commits": [
            asdict(commit) | {"messages": sorted(commit.messages), "hashes": sorted(commit.hashes)}
            for commit in evidence.commits
        ],
        "leases": [asdict(call) for call in evidence.leases],
    }
    (folder / "evidence.json").write_text(json.dumps(found, default=str, indent=1))


def _missing(result: Result, ledger: Ledger, cold_reads: int) -> list[tuple[str, str]]:
    """Kinds of faults and of traffic that this run should have had."""
    kinds = [*faults.MAIN, *faults.SIDE]
    found = [("faults", f"{kind} was never seen") for kind in kinds if not result.tally.seen[kind]]
    if not result.odd_answers:
        found.append(("faults", "the gateway gave no odd answers"))
    if not cold_reads:
        found.append(("faults", "the key cache was never cold"))
    return found + [("faults", f"no traffic of the kind {kind}") for kind in WEIGHTS if not ledger.kinds.get(kind)]


def _fill(result: Result, rig: Rig, ledger: Ledger, evidence: Evidence) -> None:
    result.sent = len(ledger.entries)
    result.monitored = sum(entry.monitored for entry in ledger.entries)
    result.receipted = len(evidence.delivered())
    result.rows = len(evidence.messages)
    result.files = len(evidence.objects)
    result.kinds = ledger.kinds
    result.starts = rig.starts
    result.peak_bytes = rig.peak_bytes
    result.cold_reads = rig.proxy.calls["wa_get_keys"]
    result.supabase_calls = sum(rig.proxy.calls.values())
    result.discarded = evidence.too_old


async def _progress(rig: Rig, ledger: Ledger, tell: Callable[[str], None]) -> None:
    while True:
        await anyio.sleep(PROGRESS_SECONDS)
        state = await rig.phone.state()
        tell(f"{len(ledger.entries)} sent, {state['offline_queue']} not receipted, login {state['logins']}")
