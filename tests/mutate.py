"""How many small faults the tests of a package would let pass: ``make mutants``, by hand.

Each mutant is one change of one expression: a comparison, an operator, a constant, a condition, a call left out, a
returned value. A copy of the tree gets it, and a forked pytest runs the package's quick tests there until one fails.
Tests over several processes are left out, so what only they hold is counted among the survivors.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNIT = "tests/unit"
TESTS = {
    "gare/model": [f"{UNIT}/model", f"{UNIT}/retrieval/test_factorised.py"],
    "gare/objective": [f"{UNIT}/objective", f"{UNIT}/model/test_factorised.py"],
    "gare/data": [
        *(f"{UNIT}/test_{name}.py" for name in ("order", "noise", "views", "augment", "feed", "shards_reading")),
        *(f"{UNIT}/{name}" for name in ("test_stored_against_used.py", "training/test_protocol.py", "cache")),
    ],
    "gare/training": [f"{UNIT}/training"],
    "gare/retrieval": [f"{UNIT}/retrieval"],
    "tune": [f"{UNIT}/tune"],
}
LEFT_OUT = "not ranks and not one_rank and not worker_count"
LOADED = ("torch", "transformers.models.clip.modeling_clip", "hypothesis", "pytest", "pyarrow.dataset", "scipy.stats")

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
        case ast.Return(value=ast.expr() as value):
            yield f"return {ast.unparse(value)}: None returned", put("value", ast.Constant(None))


def mutants(file: str) -> list[Mutant]:
    """All of a file, but for annotations, decorators and what an error says."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    nodes, skipped = list(ast.walk(tree)), set()
    for node in nodes:
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        parts += getattr(node, "decorator_list", [])
        if isinstance(node, ast.Raise | ast.JoinedStr) or _is_alias(node):
            parts.append(node)
        skipped |= {id(below) for part in parts if part is not None for below in ast.walk(part)}
    kept = [(number, node) for number, node in enumerate(nodes) if id(node) not in skipped]
    return [Mutant(file, node.lineno, number, name) for number, node in kept for name, _ in changes(node)]


def _is_alias(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript) and "Literal" in ast.unparse(node)


def passes(tree: Path, tests: list[str], first: str, seconds: float) -> bool:
    """Whether the tests pass in a copy of the tree, those first that name the module ``first``, within the time."""
    files = [
        path for test in tests for path in ([tree / test] if test.endswith(".py") else tree.glob(f"{test}/test_*.py"))
    ]
    files.sort(key=lambda path: (first not in path.read_text(encoding="utf-8"), str(path)))
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
        options = ["-x", "-q", "-m", "not slow and not soak and not ray", "-k", LEFT_OUT, "-p", "no:randomly"]
        import pytest

        os._exit(pytest.main([*options, *map(str, files)]))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def examine(package: str, tree: Path, sample: int, seed: int, seconds: float) -> None:
    """Print the survivors of a package among a sample of its mutants, and their share."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py"))
    every = [mutant for file in files for mutant in mutants(file)]
    chosen = random.Random(seed).sample(every, min(sample, len(every)))
    began = time.monotonic()
    if not passes(tree, TESTS[package], package, 10 * seconds):
        raise SystemExit(f"{package}: the tests fail without a mutant, or take more than {10 * seconds:.0f} s.")
    limit = max(seconds, 3 * (time.monotonic() - began))
    survivors = 0
    for mutant in chosen:
        target = tree / mutant.file
        whole = target.read_text(encoding="utf-8")
        target.write_text(mutant.source(), encoding="utf-8")
        if passes(tree, TESTS[package], mutant.file.removesuffix(".py").replace("/", "."), limit):
            survivors += 1
            print(f"  {mutant.file}:{mutant.line}  {mutant.change}", flush=True)  # noqa: T201
        target.write_text(whole, encoding="utf-8")
    share = 100 * survivors / max(1, len(chosen))
    print(f"{package}: {survivors} of {len(chosen)} survive ({share:.0f} %), of {len(every)} mutants", flush=True)  # noqa: T201


def main() -> None:
    """Examine the packages that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", help=f"of {', '.join(TESTS)}; all by default")
    parser.add_argument("--sample", type=int, default=50, help="mutants drawn per package (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    parser.add_argument("--seconds", type=float, default=60.0, help="least time limit of a mutant (default 60)")
    given = parser.parse_args()
    unknown = set(given.packages) - set(TESTS)
    if unknown:
        parser.error(f"there is no package {min(unknown)}; there are {', '.join(TESTS)}")
    for name in LOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "demo"))
        for package in given.packages or TESTS:
            examine(package, tree, given.sample, given.seed, given.seconds)


if __name__ == "__main__":
    main()
