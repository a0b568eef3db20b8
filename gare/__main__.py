"""``python -m gare``: the command of this Python, whatever PATH says."""

from gare.cli import main

if __name__ == "__main__":
    main()
