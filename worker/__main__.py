"""The entry point of `wa-worker` and `python -m worker`."""

from worker.stdio import exit_on_ctrl_c, force_utf8


def main() -> None:
    """The console script."""
    with exit_on_ctrl_c():
        from worker.cli import app
    force_utf8()
    app()


if __name__ == "__main__":
    main()
