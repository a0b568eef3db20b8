"""How many small faults the tests would let pass: ``make mutants``, by hand.

Each mutant is one change of one expression: a comparison, an operator, a constant, a condition, a call left out, a
returned value. The quick tests run once to record which functions each of them calls. Then a copy of the tree gets one
mutant at a time, and a forked pytest runs the tests that call its function until one fails. Tests
over several processes (``tests/ranks.py``) are left out, so what only they hold is counted among the survivors.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "gare/model",
    "gare/objective",
    "gare/data",
    "gare/training",
    "gare/runs",
    "gare/launch",
    "gare/evaluation",
    "gare/retrieval",
    "tune",
)
UNIT = "tests/unit"
TESTS = (
    *(
        f"{UNIT}/{name}"
        for name in ("model", "objective", "evaluation", "search", "training", "runs", "launch", "tune", "cache")
    ),
    *(f"{UNIT}/test_{name}.py" for name in ("order", "noise", "views", "augment", "feed", "shards_reading")),
    *(f"{UNIT}/test_{name}.py" for name in ("stored_against_used", "published_defaults", "older_recipes")),
    *(f"{UNIT}/test_{name}.py" for name in ("diagnostics", "evaluate_command", "diagnose_command")),
)
LOADED = ("torch", "transformers.models.clip.modeling_clip", "hypothesis", "pyarrow.dataset", "scipy.stats", "sklearn")

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}


@dataclass(frozen=True)
class Mutant:
    """A change of the node of a number, in the order of ``ast.walk``, of a file."""

    file: str
    line: int
    node: int
    change: str
    function: int  # its function's first line; 0 outside functions

    def source(self) -> str:
        """The file with the change."""
        tree = ast.parse((ROOT / self.file).read_text(encoding="utf-8"))
        node = list(ast.walk(tree))[self.node]
        dict(changes(node))[self.change]()
        return ast.unparse(ast.fix_missing_locations(tree))


def changes(node: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    """What can be changed of a node: in words, and what does it in place."""

    def put(name: str, value: object) -> Callable[[], None]:
        return lambda: setattr(node, name, value)

    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield f"{ast.unparse(node)}: comparison turned", put("ops", [SWAPS[type(op)]()])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in SWAPS:
            yield f"{ast.unparse(node)}: operator exchanged", put("op", SWAPS[type(op)]())
        case ast.Constant(value=bool(value)):
            yield f"{value} -> {not value}", put("value", not value)
        case ast.Constant(value=int(value)):
            yield f"{value} -> {value + 1}", put("value", value + 1)
        case ast.Constant(value=float(value)):
            yield f"{value} -> {value * 2 or 1.0}", put("value", value * 2 or 1.0)
        case ast.If(test=test) | ast.IfExp(test=test):
            yield f"if {ast.unparse(test)}: negated", put("test", ast.UnaryOp(ast.Not(), test))
        case ast.Expr(value=ast.Call() as call):
            yield f"{ast.unparse(call)}: left out", put("value", ast.Constant(None))
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield f"return {ast.unparse(value)}: None returned", put("value", ast.Constant(None))


def mutants(file: str) -> list[Mutant]:
    """All of a file, but for annotations, decorators, what an error says, and that ``zip`` is strict."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    nodes, skipped, function = list(ast.walk(tree)), set(), defaultdict(int)
    for node in nodes:
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        parts += getattr(node, "decorator_list", [])
        if isinstance(node, ast.Raise | ast.JoinedStr) or _is_alias(node) or getattr(node, "arg", None) == "strict":
            parts.append(node)
        skipped |= {id(below) for part in parts if part is not None for below in ast.walk(part)}
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):  # of nested functions the inner one comes later
            first = min(part.lineno for part in [node, *node.decorator_list])
            function.update({id(below): first for below in ast.walk(node)})
    kept = [(number, node) for number, node in enumerate(nodes) if id(node) not in skipped]
    return [
        Mutant(file, node.lineno, number, change, function[id(node)])
        for number, node in kept
        for change, _ in changes(node)
    ]


def _is_alias(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript) and "Literal" in ast.unparse(node)


@dataclass(eq=False)
class Recorder:
    """A plugin of pytest: which functions of the packages each test calls, and its seconds.

    What is called while a file of tests is imported counts for its tests as what their fixtures call.
    """

    tree: Path
    seen: set[tuple[str, int]] = field(default_factory=set)
    files: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)

    def pytest_sessionstart(self) -> None:
        within = tuple(f"{self.tree / package}/" for package in PACKAGES)

        def note(frame: Any, _event: str, _arg: object) -> None:
            if frame.f_code.co_filename.startswith(within):
                self.seen.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

        threading.settrace(note)
        sys.settrace(note)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.files[report.nodeid] = self._taken()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        imported = self.files.get(report.nodeid.split("::")[0], [])
        new = {"seconds": 0.0, "setup": list(imported), "call": [], "teardown": []}
        test = self.tests.setdefault(report.nodeid, new)
        test["seconds"] += report.duration
        test[report.when] += self._taken()

    def _taken(self) -> list[tuple[str, int]]:
        taken = [(str(Path(file).relative_to(self.tree)), line) for file, line in self.seen]
        self.seen.clear()
        return taken

    def pytest_sessionfinish(self) -> None:
        sys.settrace(None)
        (self.tree / "calls.json").write_text(json.dumps(self.tests), encoding="utf-8")


@dataclass(eq=False)
class Only:
    """A plugin of pytest: these tests, in this order."""

    chosen: list[str]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        by_name = {item.nodeid: item for item in items}
        items[:] = [by_name[name] for name in self.chosen if name in by_name]


def passes(tree: Path, tests: list[str], plugin: object, seconds: float) -> bool:
    """Whether the tests pass in a copy of the tree, within the time."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        importlib.import_module("tests.ranks").on_ranks = _skipped
        options = ["-x", "-q", "-m", "not slow and not soak and not ray", "-p", "no:randomly"]
        os._exit(pytest.main([*options, *tests], plugins=[plugin]))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _skipped(*_: object, **__: object) -> None:
    pytest.skip("It runs several processes, in which no call is recorded.")


def record(tree: Path) -> dict[str, dict[str, Any]]:
    """What each quick test calls (``Recorder``)."""
    if not passes(tree, list(TESTS), Recorder(tree), 7200):
        raise SystemExit("The tests fail without a mutant, or take more than two hours.")
    recorded: dict[str, dict[str, Any]] = json.loads((tree / "calls.json").read_text(encoding="utf-8"))
    return recorded


def calling(mutant: Mutant, recorded: dict[str, dict[str, Any]], seconds: float) -> tuple[list[str], float]:
    """The tests that call the function of a mutant, until they take the seconds; their time.

    Those of files that name its module come first, then the shortest. What a test's fixtures call counts for all tests
    of its file, which may share them.
    """
    module = mutant.file.removesuffix(".py").replace("/", ".")

    def calls(test: dict[str, Any], *phases: str) -> bool:
        called = [line for phase in phases for file, line in test[phase] if file == mutant.file]
        return mutant.function in called if mutant.function else bool(called)

    files = {name.split("::")[0] for name, test in recorded.items() if calls(test, "setup")}
    found = [name for name, test in recorded.items() if calls(test, "call", "teardown") or name.split("::")[0] in files]
    chosen, total = [], 0.0
    for name in sorted(found, key=lambda name: (not _names(name.split("::")[0], module), recorded[name]["seconds"])):
        if chosen and total + recorded[name]["seconds"] > seconds:
            break
        chosen.append(name)
        total += recorded[name]["seconds"]
    return chosen, total


@cache
def _names(file: str, module: str) -> bool:
    return module in (ROOT / file).read_text(encoding="utf-8")


def survives(mutant: Mutant, tree: Path, recorded: dict[str, dict[str, Any]], seconds: float) -> bool:
    """Whether the tests pass with a mutant; also if none calls its function."""
    chosen, total = calling(mutant, recorded, seconds)
    if not chosen:
        return True
    target = tree / mutant.file
    whole = target.read_text(encoding="utf-8")
    target.write_text(mutant.source(), encoding="utf-8")
    passed = passes(tree, sorted({name.split("::")[0] for name in chosen}), Only(chosen), seconds + 3 * total)
    target.write_text(whole, encoding="utf-8")
    return passed


def examine(package: str, tree: Path, recorded: dict[str, dict[str, Any]], given: argparse.Namespace) -> None:
    """Print the survivors of a package among a sample of its mutants, and their share."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py"))
    every = [mutant for file in files for mutant in mutants(file)]
    chosen = random.Random(given.seed).sample(every, min(given.sample, len(every)))
    survivors = 0
    for mutant in chosen:
        if survives(mutant, tree, recorded, given.seconds):
            survivors += 1
            print(f"  {mutant.file}:{mutant.line}  {mutant.change}", flush=True)  # noqa: T201
    share = 100 * survivors / max(1, len(chosen))
    print(f"{package}: {survivors} of {len(chosen)} survive ({share:.0f} %), of {len(every)} mutants", flush=True)  # noqa: T201


def main() -> None:
    """Examine the packages that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", help=f"of {', '.join(PACKAGES)}; all by default")
    parser.add_argument("--sample", type=int, default=50, help="mutants drawn per package (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    parser.add_argument("--seconds", type=float, default=60.0, help="most seconds of tests per mutant (default 60)")
    given = parser.parse_args()
    unknown = set(given.packages) - set(PACKAGES)
    if unknown:
        parser.error(f"there is no package {min(unknown)}; there are {', '.join(PACKAGES)}")
    for name in LOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "demo"))
        recorded = record(tree)
        for package in given.packages or PACKAGES:
            examine(package, tree, recorded, given)


if __name__ == "__main__":
    main()
