"""The entry point of `wa-worker` and `python -m worker`. `--version` alone is answered before anything else loads."""

import sys

from worker.stdio import exit_on_ctrl_c, force_utf8, version


def main() -> None:
    """The console script."""
    if sys.argv[1:] == ["--version"]:
        print(f"wa-worker {version()}")
        return
    with exit_on_ctrl_c():
        from worker.cli import app
    force_utf8()
    app()


if __name__ == "__main__":
    main()
