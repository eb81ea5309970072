"""The command line: `wa-worker run`, `up`, `host`, `version`, and the commands of `worker.commands`.

An operator's mistake gives one line on stderr and an exit code, never a stack trace. The worker's imports happen when
it starts: `--help`, `--version` and completion load none of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from worker.commands import LazyCommands
from worker.errors import ExitCode, WorkerError
from worker.stdio import version as installed_version

if TYPE_CHECKING:
    from worker.settings import Settings

CAPACITY_MAX = 500  # one sidecar each: memory runs out long before

app = typer.Typer(
    cls=LazyCommands,
    help="Writes the live messages of chosen WhatsApp groups into your Supabase, exactly once.",
    epilog="Exit codes: " + " · ".join(f"{code} {code.meaning}" for code in ExitCode),
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def default(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
    env_file: Annotated[
        str | None, typer.Option("--env-file", metavar="FILE", help="Read settings from FILE instead of .env.")
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", metavar="NAME", help="The session to use, instead of WORKER_SESSION.")
    ] = None,
) -> None:
    """Without a command: `run`. Settings come from the environment and .env; see .env.example."""
    if version:
        print_version()
        raise typer.Exit
    if env_file is not None:
        os.environ["WORKER_ENV_FILE"] = env_file
    if session is not None:
        os.environ["WORKER_SESSION"] = session
    if context.invoked_subcommand is None:
        run()


@app.command()
def run() -> None:
    """Run until stopped (Ctrl-C or SIGTERM). The QR code is in wa_sessions.detail.

    Unless WORKER_CATCH_UP_S is set, messages that waited with WhatsApp while no worker ran are dropped.
    """

    async def work(settings: Settings) -> None:
        from worker.sidecar import sidecar_ahead

        async with sidecar_ahead(settings) as ahead:  # while the rest is imported
            from worker.host import Host

            await Host(settings, ahead=ahead).run()

    start(work)


@app.command()
def up(
    open_: Annotated[bool, typer.Option("--open", help="Open the web console in this machine's browser.")] = False,
    console: Annotated[bool, typer.Option(help="Run the web console beside the worker, or not.")] = True,
) -> None:
    """Like `run`, for a person at a terminal: draws the QR code to scan.

    Unless WORKER_CATCH_UP_S is set, messages that waited with WhatsApp while no worker ran are stored if they are no
    older than a day.
    """
    from worker.commands.terminal import Terminal

    terminal = Terminal()

    async def work(settings: Settings) -> None:
        from worker.sidecar import sidecar_ahead

        async with sidecar_ahead(settings) as ahead:  # while the rest is imported
            import webbrowser

            from worker.commands.console import console_beside
            from worker.host import Host

            host = Host(settings, terminal.show, terminal.follow if terminal.attended else None, ahead=ahead)
            if not console:
                await host.run()
                return
            async with console_beside(settings) as link:
                terminal.name_console(link)
                if open_:
                    webbrowser.open(link)
                await host.run()

    start(work, catching_up=True)


@app.command()
def host(
    capacity: Annotated[
        int, typer.Option(metavar="N", min=1, max=CAPACITY_MAX, help="Maximum number of sessions to serve.")
    ] = 50,
) -> None:
    """Serve wanted sessions (`wa-worker sessions`), as many as fit, beside other hosts on the same Supabase.

    Each session has its own sidecar process; its failures do not affect others. All settings except WORKER_SESSION
    apply to each session, unless it has its own. Unless WORKER_CATCH_UP_S is set, messages that waited with WhatsApp
    are stored if they are no older than a day.
    """

    async def work(settings: Settings) -> None:
        from worker.host import Host

        await Host(settings, capacity=capacity).run()

    start(work, catching_up=True, one_session=False)


@app.command("version")
def print_version() -> None:
    """Print the version."""
    typer.echo(f"wa-worker {installed_version()}")


def start(work: Callable[[Settings], Awaitable[None]], *, catching_up: bool = False, one_session: bool = True) -> None:
    """Run a worker to its end; turn an error into a line and an exit code."""
    import anyio
    from loguru import logger

    from worker import machine
    from worker.bridge.process import check_node
    from worker.installation import install_packages
    from worker.log import redact, set_up_log
    from worker.settings import load_settings, misspelt, unknown_names

    try:
        settings = load_settings()
        if catching_up:
            settings = settings.catching_up()
        set_up_log(settings.log_level, session=settings.worker_session if one_session else None)
        for name in unknown_names():
            logger.warning("{}", misspelt(name))
        install_packages(settings.worker_node, lambda line: logger.info("{}", line))
        check_node(settings.worker_node)
        anyio.run(work, settings)
    except WorkerError as error:
        fail(redact(str(error)), error.exit_code)
    except KeyboardInterrupt:
        fail("interrupted", ExitCode.INTERRUPTED)
    except Exception as error:
        words = machine.trouble(error) if isinstance(error, OSError) else None
        if words:
            fail(f"this machine is in trouble: {words}", ExitCode.FAULT)
        logger.exception("a fault of the worker itself; please report it")
        sys.exit(ExitCode.FAULT)


def fail(text: str, code: int) -> NoReturn:
    """Print the reason on stderr and exit."""
    with suppress(OSError):  # the exit code still tells
        for line in text.splitlines():
            print(f"wa-worker: {line}", file=sys.stderr)
    sys.exit(code)
