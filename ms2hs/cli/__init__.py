"""The command line."""


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    try:
        from ms2hs.cli.process import run_process  # every import is inside: Ctrl-C is an exit code from here on
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run_process(_start)


def _start() -> None:
    from ms2hs.cli import app

    app.main()
