"""Ray Train's controller in this process: its result, its error, or the end of its workers; without a cluster."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gare.launch.ray_controller import StoppedError, _control


class Controller:
    """Runs until it is cancelled, unless it is to end by itself."""

    def __init__(self, ends):
        self.ends, self.aborted = ends, 0

    async def run(self):
        await asyncio.sleep(0 if self.ends else 60)
        if isinstance(self.ends, Exception):
            raise self.ends

    def get_result(self):
        return "the result"

    def get_worker_group(self):
        return self

    def abort(self):
        self.aborted += 1


def test_its_result_and_its_error_are_given_on():
    assert asyncio.run(_control(Controller(ends=True), threading.Event())) == "the result"
    with pytest.raises(KeyError, match="from a worker"):
        asyncio.run(_control(Controller(KeyError("from a worker")), threading.Event()))


def test_asked_to_stop_it_ends_its_workers():
    stop, controller = threading.Event(), Controller(ends=False)
    stop.set()
    with pytest.raises(StoppedError):
        asyncio.run(_control(controller, stop))
    assert controller.aborted == 1
