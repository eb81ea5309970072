"""`wa-worker sessions`: manages the accounts that hosts serve (`wa-worker host`), their settings and requests.

Writes the wanted state; hosts read it with their next poll. Does not affect `run` and `up`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import anyio
import typer
from rich.table import Table

from worker.commands.prune import delete_objects
from worker.commands.runtime import NotDone, WrongArgument, confirmed, perform
from worker.commands.show import ago, err, number_of, out, plain, print_json, safe, size
from worker.outbound import without_password
from worker.session_settings import SessionSettings, parse_session_settings
from worker.settings import SESSION_NAMES, Settings, is_session_name
from worker.store import Store
from worker.store.console import RequestState, Row, Sessions

POLL_SECONDS = 0.5
ROWS_AT_ONCE = 2000  # per step of a removal, which takes under a second
EVER = datetime.fromisoformat("9999-12-31T00:00:00+00:00")

app = typer.Typer(
    help="Manage the accounts that hosts serve: add, list, show, start, stop, set, remove, ask.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Name = Annotated[
    str,
    typer.Argument(help="The session's name: letters, digits, - and _, and not true, false or null.", metavar="NAME"),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]
Own = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings that override the host's; KEY= resets one, KEY=- reads it from stdin."
    ),
]


class Asked(StrEnum):
    """Requests to a session; the value is the name on the command line."""

    GROUPS = "fetch-groups"
    REFRESH = "refresh-qr"
    CODE = "pairing-code"
    DISCONNECT = "disconnect"


@app.command()
def add(
    name: Name,
    own: Own = None,
    stopped: Annotated[bool, typer.Option("--stopped", help="Do not serve it yet.")] = False,
    owner: Annotated[UUID | None, typer.Option("--owner", help="Its owner in your app: a UUID.")] = None,
    json_: Json = False,
) -> None:
    """Add a session and have a host serve it; its QR code appears in its row.

    Exit codes: 0 added · 1 it exists already · 2 an argument is wrong · 4 Supabase does not answer.
    """

    async def work(settings: Settings, store: Store) -> None:
        session = checked_name(name)
        document = changed({}, own or ()).document()
        owner_id = None if owner is None else str(owner)
        if not await store.console.add_session(session, document, wanted=not stopped, owner_id=owner_id):
            raise NotDone(f"the session {session} exists already; `wa-worker sessions show {session}` shows it")
        if json_:
            print_json({"session": session, "wanted": not stopped, "settings": concealed(document)})
        else:
            later = f"is not served yet: `wa-worker sessions start {session}`"
            out().print(f"{session} {later if stopped else await wanted_now(store)}.")

    perform(work)


@app.command("list")
def list_(json_: Json = False) -> None:
    """Show all sessions with their state and host, and the hosts."""

    async def work(settings: Settings, store: Store) -> None:
        found = await store.console.sessions()
        if json_:
            print_json({"sessions": found.sessions, "hosts": found.hosts})
        elif found.sessions:
            out().print(table(found))
            for host in found.hosts:
                out().print(
                    f"host {place(host['owner'])}: {number_of(host['held'], 'session')}, room for {host['room']}"
                )
        else:
            out().print("No sessions yet: `wa-worker sessions add NAME` makes one.")

    perform(work)


@app.command()
def show(name: Name, json_: Json = False) -> None:
    """Show one session: its state, its host, and its own settings without passwords."""

    async def work(settings: Settings, store: Store) -> None:
        row, found = await one(store, name)
        stored = await store.console.session_settings(row["id"])
        shown = concealed(stored.values if stored else {})
        if json_:
            print_json(row | {"settings": shown})
            return
        facts = {
            "session": row["id"],
            "wanted": "yes" if row["wanted"] else "no",
            "state": f"{row['state'] or row['status']}: {row['say'] or '-'}",
            "account": account(row),
            "served by": f"{holder(row)}, since {ago(row['since'], found.now)}" if row["holder"] else "nobody",
            "settings": ", ".join(f"{key}={value}" for key, value in shown.items()) or "as its host has them",
        }
        if row["start_failures"]:
            facts["failed"] = f"{number_of(row['start_failures'], 'start')}, again {ago(row['not_before'], found.now)}"
        grid = Table.grid(padding=(0, 2))
        for fact, value in facts.items():
            grid.add_row(safe(fact, style="bold"), safe(value))
        out().print(grid)

    perform(work)


@app.command()
def start(name: Name, json_: Json = False) -> None:
    """Have a host serve the session."""

    async def work(settings: Settings, store: Store) -> None:
        session = checked_name(name)
        await want(store, session, True)
        if json_:
            print_json({"session": session, "wanted": True})
        else:
            out().print(f"{session} {await wanted_now(store)}.")

    perform(work)


@app.command()
def stop(
    name: Name,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait until its host has released it.")] = 30.0,
    json_: Json = False,
) -> None:
    """Stop serving the session; the account stays linked.

    Exit codes: 0 nobody serves it · 1 somebody still does · 2 an argument is wrong · 4 Supabase does not answer.
    """

    async def work(settings: Settings, store: Store) -> None:
        session = checked_name(name)
        await want(store, session, False)
        with anyio.move_on_after(timeout):
            while held_by_host((await one(store, session))[0]):  # noqa: ASYNC110 - the row is in a database
                await anyio.sleep(POLL_SECONDS)
        row, _ = await one(store, session)
        if row["holder"] and not held_by_host(row):
            raise NotDone(f"{session} is not wanted any more, but {no_host(row)}")
        if row["holder"]:
            raise NotDone(
                f"{session} is not wanted any more, but {holder(row)} still serves it; it stops at its next poll"
            )
        if json_:
            print_json({"session": session, "wanted": False})
        else:
            out().print(f"{session} is stopped.")

    perform(work)


@app.command("set")
def set_(name: Name, own: Own = None, json_: Json = False) -> None:
    """Change a session's own settings; its host restarts it with them.

    Without KEY=VALUE, lists the keys.
    """
    if not own:
        grid = Table.grid(padding=(0, 2))
        for key, field in SessionSettings.model_fields.items():
            grid.add_row(key, safe(field.description or ""))
        out().print(grid)
        return

    async def work(settings: Settings, store: Store) -> None:
        session = checked_name(name)
        stored = await store.console.session_settings(session)
        if stored is None:
            raise unknown(session)
        document = changed(stored.values, own).document()
        if not await store.console.set_settings(session, document, stored.version):
            raise NotDone("somebody else has just changed its settings; check them and try again")
        shown = concealed(document)
        if json_:
            print_json({"session": session, "settings": shown})
        else:
            words = ", ".join(f"{key}={value}" for key, value in shown.items())
            out().print(safe(f"{session}: {words or 'all as its host has them'}"))

    perform(work)


@app.command()
def remove(
    name: Name,
    with_data: Annotated[bool, typer.Option("--with-data", help="Also delete everything it stored.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document; implies --yes.")] = False,
) -> None:
    """Forget a session's account and, with --with-data, everything it stored.

    It must be stopped. The phone still lists the device: `sessions ask NAME disconnect` first unlinks it. May be
    interrupted and run again. Exit codes: 0 done · 1 it is not stopped · 2 an argument is wrong · 4 Supabase does not
    answer.
    """

    async def work(settings: Settings, store: Store) -> None:
        row, _ = await one(store, name)
        session = row["id"]
        if row["holder"] and not row["wanted"] and not held_by_host(row):
            raise NotDone(f"{session} is served: {no_host(row)}")
        if row["wanted"] or row["holder"]:
            raise NotDone(
                f"{session} is {'wanted' if row['wanted'] else 'served'}: `wa-worker sessions stop {session}`"
            )
        plan = await described(store, session, with_data)
        if not (yes or json_):
            out().print(safe(plan))
            if not confirmed("Remove it?"):
                raise NotDone("nothing was removed")
        while await store.console.remove_session(session, data=with_data, limit=ROWS_AT_ONCE):
            pass
        objects = await delete_objects(store, 0) if with_data else 0
        if json_:
            print_json({"session": session, "data": with_data, "objects": objects})
        else:
            files = f", and {number_of(objects, 'file')}" if objects else ""
            out().print(f"{session} is removed{files}.")

    perform(work)


@app.command()
def ask(
    name: Name,
    what: Annotated[Asked, typer.Argument(help="What to ask for.")],
    phone: Annotated[str | None, typer.Option(help="For a pairing code: the phone's number with country code.")] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for the answer.")] = 30.0,
    json_: Json = False,
) -> None:
    """Send a request to a session's host, and wait for the answer.

    A pairing code appears in the row: `wa-worker link` shows it. Exit codes: 0 answered · 1 not in time (the request
    stays) · 2 an argument is wrong · 4 Supabase does not answer.
    """

    async def work(settings: Settings, store: Store) -> None:
        if (phone is None) is (what is Asked.CODE):
            raise WrongArgument("--phone is only for pairing-code")
        row, _ = await one(store, name)
        args = {"phone": phone} if phone else {}
        id_ = await store.console.ask(row["id"], what.value.replace("-", "_"), args)
        if not row["holder"]:
            err().print(f"Nobody serves {row['id']} now; the request waits for a host.")
        with anyio.move_on_after(timeout):
            state = await answered(store, row["id"], id_)
            if json_:
                print_json({"session": row["id"], "asked": what.value, "result": state.result})
            else:
                out().print(safe(f"{row['id']}: {state.result or 'no longer known'}"))
            return
        raise NotDone(f"no answer within {timeout:g} s; the request stays")

    perform(work)


async def one(store: Store, name: str) -> tuple[Row, Sessions]:
    """The session's row of the list.

    Raises:
        WrongArgument: there is no such session.
    """
    session = checked_name(name)
    found = await store.console.sessions(only=session)
    if not found.sessions:
        raise unknown(session)
    return found.sessions[0], found


async def wanted_now(store: Store) -> str:
    """What becomes of a session that is wanted from now on."""
    if (await store.console.sessions()).hosts:
        return "is wanted: a host takes it soon"
    return "is wanted, but no host runs: start one with `wa-worker host`"


async def answered(store: Store, session: str, request: int) -> RequestState:
    while True:
        state = await store.console.request_state(session, request)
        if state.handled:
            return state
        await anyio.sleep(POLL_SECONDS)


async def want(store: Store, session: str, wanted: bool) -> None:
    if await store.console.want_session(session, wanted) is None:
        raise unknown(session)


async def described(store: Store, session: str, with_data: bool) -> str:
    """What a removal deletes and what stays."""
    if not with_data:
        return f"{session}: credentials, keys, settings and requests go. Messages, groups, people and files stay."
    held = await store.console.retention(session, EVER)
    row = await store.status(session)
    messages = ("" if row["messages_exact"] else "about ") + number_of(row["messages"], "message")
    return (
        f"{session}: all of it goes: {messages}, {number_of(row['groups'], 'group')}, people, audit log, and "
        f"{number_of(held.media, 'file')} ({size(held.bytes)}) that no other session has."
    )


def checked_name(name: str) -> str:
    """
    Raises:
        WrongArgument: not a valid session name.
    """
    if not is_session_name(name):
        raise WrongArgument(f"{plain(name)!r} cannot be a session's name: it must be {SESSION_NAMES}")
    return name


def unknown(session: str) -> WrongArgument:
    return WrongArgument(f"there is no session {session}; `wa-worker sessions list` shows all")


def changed(values: Mapping[str, Any], own: Sequence[str]) -> SessionSettings:
    """The settings after these changes.

    Raises:
        WrongArgument, SettingsError: one of them is invalid.
    """
    after = dict(values)
    for text in own:
        key, equals, value = text.partition("=")
        if not equals:
            raise WrongArgument(f"{plain(text, 40)!r} is not KEY=VALUE")
        if value == "-":
            value = sys.stdin.readline().rstrip("\n")
        after[key] = value if value else None
    return parse_session_settings({key: value for key, value in after.items() if value is not None})


def concealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without secrets, safe to show."""
    return {key: without_password(str(value)) if key == "proxy" else value for key, value in values.items()}


def table(found: Sessions) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("session", "wanted", "state", "account", "served by", "since"):
        grid.add_column(title, overflow="fold")
    for row in found.sessions:
        grid.add_row(
            safe(row["id"]),
            "yes" if row["wanted"] else "no",
            safe(row["state"] or row["status"]),
            safe(account(row)),
            safe(holder(row) if row["holder"] else "-"),
            ago(row["since"], found.now) if row["holder"] else "",
        )
    return grid


def account(row: Row) -> str:
    return plain(row["wa_name"] or row["wa_number"] or ("linked" if row["has_creds"] else "not linked"), 40)


def holder(row: Row) -> str:
    return place(row["holder"])


def held_by_host(row: Row) -> bool:
    return bool(row["holder"] and row["by_host"])


def no_host(row: Row) -> str:
    """Why a session's holder does not obey these commands, and what to do."""
    return f"{holder(row)} serves it on its own (`wa-worker run` or `up`): end that worker"


def place(owner: str) -> str:
    """The machine and process of a lease's owner."""
    return plain(owner.rsplit(":", 1)[0], 60)
