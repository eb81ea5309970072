"""The entry point of `wa-worker` and `python -m worker`. The version alone is answered before anything else loads."""

import sys

from worker.machine import open_closed_streams, silence_stdout, trouble
from worker.stdio import exit_on_ctrl_c, force_utf8, version


def main() -> None:
    """The console script."""
    open_closed_streams()
    try:
        _main()
        sys.stdout.flush()
    except OSError as error:  # help or a result, on a full disk; whatever else may fail has words of its own
        words = trouble(error)
        if words is None:
            raise
        silence_stdout()
        sys.exit(f"wa-worker: the output cannot be written: {words}")


def _main() -> None:
    if sys.argv[1:] in (["--version"], ["version"]):
        print(f"wa-worker {version()}")
        return
    with exit_on_ctrl_c():
        from worker.cli import app
    force_utf8()
    app()


if __name__ == "__main__":
    main()
