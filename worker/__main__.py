"""`wa-worker` and `python -m worker`: the first thing that runs."""

from worker.streams import ended_by_ctrl_c, speak_utf8


def main() -> None:
    """The console script."""
    with ended_by_ctrl_c():
        from worker.cli import app
    speak_utf8()
    app()


if __name__ == "__main__":
    main()
