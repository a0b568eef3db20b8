"""Counts the functions of ours that ``gare train CONFIG --local`` enters until the first loss.

Run ``python -m tests.path_to_first_loss``. ``--list`` prints every function too, in the order in which they are
entered; ``--tracking`` has the run tracked.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType

from gare.cli import main
from gare.config.tree import to_yaml
from tests.toy import make_shards, make_toy_clip, toy_config

ROOT = Path(__file__).parents[1]
OURS = tuple(f"{ROOT / package}/" for package in ("gare", "pipelines", "tune"))


class FirstLossError(BaseException):
    """Ends the run when the first training step has returned."""


class Counter:
    """A profile function that counts what is entered of ours, but for what importing a module runs.

    ``until``: function at whose return it stops counting and raises FirstLossError.
    """

    def __init__(self, until: str | None = None) -> None:
        self._until = until
        self.calls: dict[tuple[str, str], int] = {}
        self._importing: dict[int, int] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "return"):
            return
        code, thread = frame.f_code, threading.get_ident()
        if code.co_name == "<module>":
            self._importing[thread] = self._importing.get(thread, 0) + (1 if event == "call" else -1)
            return
        if self._importing.get(thread) or code.co_name.startswith("<") or not code.co_flags & inspect.CO_OPTIMIZED:
            return
        if not code.co_filename.startswith(OURS):
            return
        if event == "call":
            place = ".".join(Path(code.co_filename).relative_to(ROOT).with_suffix("").parts), code.co_qualname
            self.calls[place] = self.calls.get(place, 0) + 1
        elif code.co_name == self._until:
            self.stop()
            raise FirstLossError

    def start(self) -> None:
        """Count in every thread from now on."""
        threading.setprofile(self)
        sys.setprofile(self)

    def stop(self) -> None:
        """Count no more."""
        sys.setprofile(None)
        threading.setprofile(None)


def path_to_first_loss(folder: Path, *, tracking: bool = False) -> dict[tuple[str, str], int]:
    """Train a toy experiment in ``folder`` up to its first loss; (module, function) -> calls, in order of entry.

    Lambdas, comprehensions, class bodies and the modules' own code are no functions. All threads count.
    """
    shards = make_shards(folder / "shards", {"train": 6, "dev": 4})
    settings = folder / "settings.yaml"
    wanted = f"runtime.tracking={str(tracking).lower()}"
    settings.write_text(to_yaml(toy_config(make_toy_clip(folder / "clip"), shards, folder / "runs", wanted)))
    counter = Counter(until="train_step")
    counter.start()
    try:
        with contextlib.suppress(FirstLossError):
            main(["train", str(settings), "--local"])
    finally:
        counter.stop()
    return counter.calls


def run() -> None:
    """Print the counts."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        calls = path_to_first_loss(Path(folder), tracking="--tracking" in sys.argv)
    if "--list" in sys.argv:
        for (module, name), count in calls.items():
            sys.stdout.write(f"{count:5}  {module}  {name}\n")
    modules = {module for module, _ in calls}
    total = sum(calls.values())
    sys.stdout.write(f"{len(modules)} modules, {len(calls)} functions, {total} calls to the first loss\n")


if __name__ == "__main__":
    run()
