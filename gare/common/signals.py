"""Handle signals that end a command: the first one lets it clean up, whatever libraries do with the exception."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STILL = b"Still ending what is at work; a third signal ends at once.\n"


class Stopped(KeyboardInterrupt):
    """A signal that asks this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stopping() -> Iterator[None]:
    """Raise Stopped in the block at the first ending signal; the second prints a message, the third kills.

    If nothing is ending at the second signal, because a library dropped the exception, it raises Stopped again. A
    signal that the caller ignores, as with nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        told.append(number)
        if len(told) == 1 or (len(told) == 2 and not _is_ending()):
            raise Stopped(number)
        if len(told) == 2:
            os.write(2, STILL)
            return
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    before = {number: signal.getsignal(number) for number in ENDING}
    ours = [number for number, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    for number in ours:
        signal.signal(number, handle)
    try:
        yield
    except (KeyboardInterrupt, SystemExit, Exception):
        if told:  # Ray replaces it with a plain exception, and Tune ends its trials
            raise Stopped(told[0]) from None
        raise
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextmanager
def held(number: signal.Signals) -> Iterator[None]:
    """Hold a signal back until the block has ended, if this process handles it; the third one ends the process.

    If the block raises an error, the error goes on, and ``stopping`` around it ends as at any signal.
    """
    before = signal.getsignal(number) if threading.current_thread() is threading.main_thread() else None
    if not callable(before):
        yield
        return
    told: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        told.append(number)
        if len(told) == 3:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    signal.signal(number, handle)
    try:
        yield
    except BaseException:
        signal.signal(number, before)
        if told:
            with suppress(Stopped):  # an error, not Stopped, so that nobody saves what the block left half done
                signal.raise_signal(number)
        raise
    signal.signal(number, before)
    if told:
        signal.raise_signal(number)


@contextmanager
def keeping_signals(theirs: int) -> Iterator[None]:
    """Restore the handlers from before the block: Ray sets its own, which end the process silently.

    If Ray ends the process in the block, Stopped is raised; ``theirs``: the signal that Ray handles there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    except SystemExit:
        raise Stopped(theirs) from None
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that C code set cannot be set from here
                signal.signal(number, handler)


def _is_ending() -> bool:
    """Return whether a signal interrupted code that runs because of a Stopped: in a finally, an except or an exit."""
    handled = sys.exception()
    while handled is not None and not isinstance(handled, KeyboardInterrupt):
        handled = handled.__context__
    return handled is not None
