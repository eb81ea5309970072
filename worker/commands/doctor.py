"""`wa-worker doctor`: checks everything that a worker needs. Each line says OK, or what to do."""

from __future__ import annotations

import base64
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx
import typer
from anyio.abc import AsyncResource
from rich.text import Text

from worker.bridge.process import check_node
from worker.commands.runtime import end, find, run
from worker.commands.show import number_of, out, plain, print_json, size
from worker.commands.status import claimed
from worker.errors import (
    ExitCode,
    KeyRefused,
    SettingsError,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    UnexpectedAnswer,
)
from worker.installation import node_folder, remedy, sidecar_folder, waits_for_packages
from worker.outbound import http_client, proxy_for, why
from worker.session.version import FRESH
from worker.settings import Settings, load_settings, misspelt, unknown_names
from worker.store import BUCKET, SCHEMA_VERSION, Store, Timeouts, connect_store

Grade = Literal["ok", "note", "fail"]

PYTHON_MIN = (3, 11)
REACH_SECONDS = 8.0
BODY_BYTES = (100_000, 1_000_000, 4_000_000, 16_000_000)  # a batch has 1 MB; one message can have 16
BODY_WANTED_BYTES = 1_000_000
BODY_SECONDS = 20.0  # 16 MB at 6 Mbit/s
CLOCK_MAX_SECONDS = 5.0  # docs/architecture.md, "Live only": larger differences are audited
WHATSAPP = ("web.whatsapp.com", 443)
PAGE = "https://web.whatsapp.com/"
SERVICE_ROLE = "service_role"
# A few columns per table that only ours have, to recognise other tables with the same names.
OURS = {
    "wa_sessions": "id,creds_json,fence,epoch,seq",
    "groups": "session_id,wa_group_id,monitor,left_at",
    "messages": "session_id,group_id,wa_msg_id,media_status,parent_id",
    "media": "sha256,storage_path,duration_s",
    "audit_log": "session_id,event,payload",
    "runtime_flags": "key,value,handled_at",
}
NO_TABLE = ("PGRST205", "42P01")
Presence = Literal["ours", "other", "missing"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of output. `text`: the observation and, for a `fail`, what to do."""

    name: str
    grade: Grade
    text: str


def doctor(
    json_: Annotated[bool, typer.Option("--json", help="One JSON document instead of lines.")] = False,
    supabase: Annotated[bool, typer.Option("--supabase", help="Only what concerns the Supabase project.")] = False,
) -> None:
    """Check settings, Python, Node, Supabase, key, schema, bucket, clock and the way to WhatsApp.

    Changes nothing. Exit codes: 0 nothing failed (a note may remain) · 1 something needs you · 2 the settings cannot be
    read at all.
    """
    try:
        settings = load_settings()
    except SettingsError as wrong:
        _print(Finding(name="Settings", grade="fail", text=str(wrong)), json_)
        end("the settings cannot be read; nothing else was looked at", ExitCode.SETTINGS)

    async def work(_: Settings) -> int:
        findings = []
        async for finding in examine_project(settings) if supabase else examine(settings):
            findings.append(finding)
            if not json_:
                _print(finding, json_)
        failed = sum(finding.grade == "fail" for finding in findings)
        if json_:
            print_json({"ok": not failed, "checks": [vars(finding) for finding in findings]})
        elif failed:
            out().print(f"\n{failed} of {len(findings)} need you.", style="bold")
        else:
            notes = sum(finding.grade == "note" for finding in findings)
            out().print(f"\nNothing failed; {number_of(notes, 'note')}." if notes else "\nAll is well.", style="bold")
        return ExitCode.FAULT if failed else 0

    run(work)


def _print(finding: Finding, json_: bool) -> None:
    if json_:
        return
    mark, style = {"ok": ("OK", "green"), "note": ("note", "yellow"), "fail": ("FAIL", "bold red")}[finding.grade]
    line = Text(f"{mark:<5}", style=style)
    line.append(f"{finding.name}: ", style="bold not dim white")
    line.append("; ".join(plain(part) for part in finding.text.splitlines()), style="not bold white")
    out().print(line, soft_wrap=True)


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """All checks, in order of dependency."""
    yield check_settings(settings)
    yield check_python(sys.version_info[:3])
    yield await anyio.to_thread.run_sync(_check_node, settings)
    yield check_sidecar()
    try:
        url, key = await find(settings)
    except SettingsError:
        text = f"the embedded one, on {settings.worker_data_dir.resolve()}; not checked, because no worker is running"
        yield Finding(name="Supabase", grade="note", text=text)
    else:
        async for finding in _examine_supabase(settings, url, key):
            yield finding
    yield await check_whatsapp(settings)


async def examine_project(settings: Settings) -> AsyncIterator[Finding]:
    """The checks of the Supabase project only, for before a worker runs on it."""
    if settings.supabase_url is None or settings.supabase_service_key is None:
        text = "SUPABASE_URL and SUPABASE_SERVICE_KEY are not set: take both from the project's dashboard"
        yield Finding(name="Supabase", grade="fail", text=text)
        return
    key = settings.supabase_service_key.get_secret_value()
    async for finding in _examine_supabase(settings, settings.supabase_url, key):
        yield finding


def check_settings(settings: Settings) -> Finding:
    """Slips and risks in settings that are already known to be valid."""
    remarks = [misspelt(name) for name in unknown_names()]
    remarks += [f"{name} is set: for a local server only" for name in settings.local_server()]
    if "worker_catch_up_s" not in settings.model_fields_set:
        remarks.append("WORKER_CATCH_UP_S is not set: `up` takes messages that waited up to a day, `run` drops them")
    elif not settings.worker_catch_up_s:
        remarks.append("WORKER_CATCH_UP_S is 0: messages that are sent while no worker runs are dropped")
    if settings.worker_state_key is None:
        remarks.append("WORKER_STATE_KEY is not set: the account's credentials are stored as they are")
    return Finding(name="Settings", grade="note" if remarks else "ok", text="; ".join(remarks) or "valid")


def check_python(version: tuple[int, ...]) -> Finding:
    shown = ".".join(str(part) for part in version)
    if version[:2] >= PYTHON_MIN:
        return Finding(name="Python", grade="ok", text=shown)
    return Finding(name="Python", grade="fail", text=f"{shown} is too old: install 3.11 or newer, then `make setup`")


def _check_node(settings: Settings) -> Finding:
    try:
        check_node(settings.worker_node)
    except SettingsError as wrong:
        return Finding(name="Node", grade="fail", text=str(wrong))
    return Finding(name="Node", grade="ok", text=str(settings.worker_node))


def check_sidecar() -> Finding:
    """The sidecar, and Baileys, on which it is built."""
    if waits_for_packages():
        text = f"its npm packages are fetched at the first `wa-worker up`, `run` or `demo`, into {node_folder()}"
        return Finding(name="Sidecar", grade="note", text=text)
    folder = sidecar_folder()
    if not (folder / "index.js").is_file():
        return Finding(name="Sidecar", grade="fail", text=f"{folder}/index.js is missing: {remedy()}")
    for place_ in (folder, folder.parent):
        manifest = place_ / "node_modules/baileys/package.json"
        if manifest.is_file():
            return Finding(name="Sidecar", grade="ok", text=f"Baileys {json.loads(manifest.read_text())['version']}")
    return Finding(name="Sidecar", grade="fail", text=f"the npm package baileys is missing: {remedy()}")


async def _examine_supabase(settings: Settings, url: str, key: str) -> AsyncIterator[Finding]:
    reachable = await check_reachable(url)
    yield reachable
    if reachable.grade == "fail":
        return
    named = role_named_in(key)
    if named not in (None, SERVICE_ROLE):
        yield _wrong_role(str(named))
        return
    async with connect_store(url, key, Timeouts(connect=REACH_SECONDS, call=10.0)) as store:
        try:
            async for finding in _examine_database(settings, store, url, key):
                yield finding
        except KeyRefused as refused:
            yield Finding(name="Key", grade="fail", text=refused.remedy or str(refused))
        except UnexpectedAnswer as odd:
            yield Finding(name="Database", grade="fail", text=odd.remedy or f"answers oddly ({odd})")
        except StoreUnavailable as away:
            yield Finding(
                name="Database", grade="fail", text=f"does not answer ({away}); see the project's status page"
            )
        except StoreError as refused:
            yield Finding(name="Database", grade="fail", text=f"refused what a worker asks ({refused})")


async def _examine_database(settings: Settings, store: Store, url: str, key: str) -> AsyncIterator[Finding]:
    presence = {table: await inspect_table(store, table, columns) for table, columns in OURS.items()}
    schema, usable = judge_schema(presence, await _version(store) if "ours" in presence.values() else None)
    yield schema
    if usable:
        started = time.time()
        caller = await store.console.whoami()
        middle = (started + time.time()) / 2
        if caller.role != SERVICE_ROLE:
            yield _wrong_role(caller.role)
            return
        yield Finding(name="Key", grade="ok", text="of the service role")
        yield check_clock(caller.now, datetime.fromtimestamp(middle, UTC))
        yield await check_body_size(url, key)
    yield await check_bucket(url, key)
    if usable:
        answer = await store.status(settings.worker_session)
        row = answer.get("session") or {}
        yield check_session(settings.worker_session, row)
        if claims := row.get("detail", {}).get("claims"):
            yield check_version(claims, datetime.now(UTC))
        if dropped := int(answer.get("discards", {}).get("waited_too_long", 0)):
            yield check_drops(dropped)


async def check_reachable(url: str) -> Finding:
    """Whether anything answers HTTP at the URL."""
    host = urlsplit(url).netloc
    try:
        async with http_client(url, timeout=REACH_SECONDS) as http:
            answer = await http.get(f"{url}/rest/v1/", headers={"accept": "application/json"})
    except (httpx.ConnectError, httpx.ProxyError) as error:
        text = f"{host} cannot be reached, {why(error)}: check SUPABASE_URL, firewall and proxy"
        return Finding(name="Supabase", grade="fail", text=text)
    except httpx.HTTPError as error:
        text = f"{host} does not answer ({why(error)}): check the network, and that the project is not paused"
        return Finding(name="Supabase", grade="fail", text=text)
    if answer.status_code in (502, 503, 504, 521, 522, 523, 540, 544):
        text = f"{host} answers {answer.status_code}: the project is paused or starting; see its dashboard"
        return Finding(name="Supabase", grade="fail", text=text)
    return Finding(name="Supabase", grade="ok", text=f"{host} answers")


def role_named_in(key: str) -> str | None:
    """The role in a key's own claims, read without a request; None if it has none."""
    if key.startswith("sb_publishable_"):
        return "anon"
    if key.startswith("sb_secret_"):
        return SERVICE_ROLE
    parts = key.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    role = claims.get("role") if isinstance(claims, dict) else None
    return str(role) if role else None


def _wrong_role(role: str) -> Finding:
    text = f"of the role {plain(role, 40)}: set SUPABASE_SERVICE_KEY to the secret key of the service role"
    return Finding(name="Key", grade="fail", text=f"{text} (Project settings, API keys)")


async def inspect_table(store: Store, table: str, columns: str) -> Presence:
    """Whether the table exists and has our columns. Reads no row."""
    try:
        await store.select_nothing(table, columns)
    except StoreRefused as refused:
        if refused.code in NO_TABLE:
            return "missing"
        try:
            await store.select_nothing(table, "*")
        except StoreRefused:
            return "missing"
        return "other"
    return "ours"


async def _version(store: Store) -> str | None:
    try:
        return await store.schema_version()
    except (StoreRefused, UnexpectedAnswer):
        return None


def judge_schema(presence: dict[str, Presence], version: str | None) -> tuple[Finding, bool]:
    """Judges tables and version. Also returns whether our functions can be called."""
    others = sorted(table for table, what in presence.items() if what == "other")
    missing = sorted(table for table, what in presence.items() if what == "missing")

    def fail(text: str) -> tuple[Finding, bool]:
        return Finding(name="Schema", grade="fail", text=text), False

    if others:
        return fail(
            f"this project has other tables with our names ({', '.join(others)}); they were left alone. Use a Supabase "
            "project of its own for wa-worker"
        )
    if len(missing) == len(presence):
        return fail(
            "the database is empty: apply the migrations with `supabase db push`, or paste what `wa-worker schema` "
            "prints into the dashboard's SQL editor"
        )
    if missing or version is None:
        return fail("the migrations were applied in part only: apply the rest with `supabase db push`")
    if version < SCHEMA_VERSION:
        return fail(
            f"the database lacks migrations after {version}: apply them with `supabase db push`, or paste what "
            f"`wa-worker schema --after {version}` prints into the dashboard's SQL editor"
        )
    if version > SCHEMA_VERSION:
        text = f"the database is newer ({version}) than this program ({SCHEMA_VERSION}): update wa-worker"
        return Finding(name="Schema", grade="note", text=text), True
    return Finding(name="Schema", grade="ok", text=f"ours, {version}"), True


def check_clock(there: datetime, here: datetime) -> Finding:
    """The database's clock judges leases, this machine's the age of messages."""
    difference = (here - there).total_seconds()
    shown = f"{difference:+.1f} s from the database's"
    if abs(difference) <= CLOCK_MAX_SECONDS:
        return Finding(name="Clock", grade="ok", text=shown)
    return Finding(name="Clock", grade="fail", text=f"{shown}: switch on time synchronisation (NTP) on this machine")


async def check_body_size(url: str, key: str) -> Finding:
    """How large a request may be on its way to the database, tried with padded calls of a read-only function."""
    headers = {"apikey": key, "authorization": f"Bearer {key}", "content-type": "application/json"}
    passed, why_not = 0, ""
    async with http_client(url, timeout=BODY_SECONDS) as http:
        for length in BODY_BYTES:
            body = b"{" + b" " * (length - 2) + b"}"
            try:
                answer = await http.post(f"{url}/rest/v1/rpc/wa_schema_version", headers=headers, content=body)
            except httpx.HTTPError as error:
                why_not = why(error)
                break
            if not answer.is_success:
                why_not = f"HTTP {answer.status_code}"
                break
            passed = length
    return judge_body_size(passed, why_not)


def judge_body_size(passed: int, why_not: str) -> Finding:
    """Judges the limit: a request of `passed` bytes was answered, the next larger one was not, because of `why_not`."""
    if not why_not:
        return Finding(name="Request size", grade="ok", text=f"{size(passed)} passes")
    limit = f"{size(passed)} passes, more does not ({why_not})" if passed else f"not even 100 kB pass ({why_not})"
    if passed >= BODY_WANTED_BYTES:
        return Finding(name="Request size", grade="ok", text=limit)
    text = f"{limit}: messages go in smaller parts, which takes longer; raise the limit of the gateway before Supabase"
    return Finding(name="Request size", grade="note", text=text)


async def check_bucket(url: str, key: str) -> Finding:
    """Whether the bucket exists and is private. Without supabase-py, which cannot read the embedded one's answer."""
    headers = {"apikey": key, "authorization": f"Bearer {key}"}
    try:
        async with http_client(url, timeout=REACH_SECONDS) as http:
            answer = await http.get(f"{url}/storage/v1/bucket/{BUCKET}", headers=headers)
            found: Any = answer.json()
    except (httpx.HTTPError, ValueError):
        return Finding(name="Bucket", grade="fail", text="the Storage API does not answer: is it enabled?")
    if answer.is_success and isinstance(found, dict):
        if found.get("public"):
            text = f"{BUCKET} is public, everybody can read it: make it private in the dashboard (Storage)"
            return Finding(name="Bucket", grade="fail", text=text)
        return Finding(name="Bucket", grade="ok", text=f"{BUCKET}, private")
    if answer.status_code in (400, 404):
        return Finding(name="Bucket", grade="note", text=f"{BUCKET} is not there yet; the worker makes it at its start")
    return Finding(name="Bucket", grade="fail", text=f"the Storage API answers {answer.status_code}")


def check_session(session: str, row: Mapping[str, Any]) -> Finding:
    """Whether a worker serves it."""
    if not row:
        return Finding(name="Session", grade="note", text=f"{session}: no worker has served it yet")
    if not row["lease_held"]:
        return Finding(name="Session", grade="note", text=f"{session}: no worker is running")
    return Finding(
        name="Session", grade="ok", text=f"{session}: {row['status']}, served by {plain(row['lease_owner'])}"
    )


def check_drops(count: int) -> Finding:
    """Messages dropped because they had waited with WhatsApp for too long."""
    text = f"{number_of(count, 'message')} so far, which had waited longer than the worker's WORKER_CATCH_UP_S"
    return Finding(name="Dropped", grade="note", text=f"{text}; 86400 keeps those of a day")


def check_version(claims: Mapping[str, Any], now: datetime) -> Finding:
    """The claimed version of WhatsApp Web; an old one can no longer link a phone."""
    at = datetime.fromisoformat(claims["at"]) if claims.get("at") else None
    fresh = claims.get("source") == "WA_VERSION" or (at is not None and now - at < FRESH)
    text = claimed(claims, now)
    if fresh:
        return Finding(name="Client version", grade="ok", text=text)
    return Finding(
        name="Client version",
        grade="note",
        text=f"{text}: perhaps too old to link a phone; let the worker reach web.whatsapp.com, or set WA_VERSION",
    )


async def check_whatsapp(settings: Settings) -> Finding:
    """Whether this machine can reach WhatsApp; the worker may run on another one."""
    if proxy_for(settings.wa_socket_url or PAGE):
        return await _check_through_proxy(settings.wa_socket_url or PAGE)
    connect: Callable[[str, int], Awaitable[AsyncResource]] = _connect_tls
    host, port = WHATSAPP
    if settings.wa_socket_url:  # a local server, with any certificate
        parts = urlsplit(settings.wa_socket_url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "wss" else 80)
        connect = _connect
    try:
        with anyio.fail_after(REACH_SECONDS):
            await (await connect(host, port)).aclose()
    except (OSError, TimeoutError, ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        text = f"{host} is not reachable from here ({why(error)}); a worker on this machine needs it, port {port}"
        return Finding(name="WhatsApp", grade="note", text=text)
    return Finding(name="WhatsApp", grade="ok", text=f"{host} is reachable")


async def _check_through_proxy(url: str) -> Finding:
    url, host = url.replace("wss://", "https://", 1), urlsplit(url).netloc
    try:
        async with http_client(url, timeout=REACH_SECONDS) as http:
            await http.head(url)
    except httpx.HTTPError as error:
        text = f"{host} is not reachable through the proxy ({why(error)}); a worker on this machine needs it"
        return Finding(name="WhatsApp", grade="note", text=text)
    return Finding(name="WhatsApp", grade="ok", text=f"{host} is reachable through the proxy")


async def _connect_tls(host: str, port: int) -> AsyncResource:
    return await anyio.connect_tcp(host, port, tls=True)


async def _connect(host: str, port: int) -> AsyncResource:
    return await anyio.connect_tcp(host, port)
