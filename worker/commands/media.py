"""`wa-worker media`: retry failed downloads."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from worker.commands.media_worker import work
from worker.commands.runtime import perform
from worker.commands.show import number_of, out, print_json
from worker.settings import Settings
from worker.store import Store

app = typer.Typer(
    help="Retry failed downloads, or run more downloaders.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.command("work")(work)


class GivenUp(StrEnum):
    """Values of `messages.media_status` that end a file's job."""

    FAILED = "failed"
    EXPIRED = "expired"
    CORRUPT = "corrupt"
    TOO_LARGE = "too_large"
    REFUSED = "refused"


USUAL = [GivenUp.FAILED, GivenUp.EXPIRED, GivenUp.CORRUPT]  # our own rules would reject the others again


@app.callback()
def media() -> None:
    """Retry failed downloads, or run more downloaders."""


@app.command()
def retry(
    status: Annotated[
        list[GivenUp], typer.Option("--status", help="Only these; can be repeated.", show_default=True)
    ] = USUAL,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Retry downloads that failed; the worker starts on them within seconds.

    After a higher WORKER_MAX_MEDIA_MB: `--status too_large`. Exit codes: 0 done, also if there was nothing to do ·
    2 a setting is wrong · 4 Supabase does not answer.
    """

    async def work(settings: Settings, store: Store) -> None:
        done = await store.console.media_requeue(settings.worker_session, [one.value for one in status])
        if json_:
            print_json({"requeued": done.requeued, "without": done.without})
            return
        out().print(f"{number_of(done.requeued, 'file')} will be tried again.")
        if done.without:
            out().print(f"{done.without:,} more cannot be: what a download needs was not kept.")

    perform(work)
