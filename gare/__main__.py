"""``gare`` and ``python -m gare``: the command of this Python, whatever PATH says."""

import sys


def run() -> None:
    """Import the commands, which takes a moment in which Ctrl-C may come, and run the command line."""
    try:
        from gare.cli import main
    except KeyboardInterrupt:
        sys.exit(130)
    main()


if __name__ == "__main__":
    run()
