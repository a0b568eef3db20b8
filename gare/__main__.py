"""``gare`` and ``python -m gare``: the command of this Python, whatever PATH says."""

import gc
import sys

COLLECT_EVERY = 10_000
"""Objects between two searches for cycles, instead of 700: imports make many objects and free hardly any."""


def run() -> None:
    """Import the commands, which takes a moment in which Ctrl-C may come, and run the command line."""
    gc.set_threshold(COLLECT_EVERY)
    try:
        from gare.cli import main
    except KeyboardInterrupt:
        sys.exit(130)
    main()


if __name__ == "__main__":
    run()
