"""Changes that a test should notice: ``make mutants`` makes them one by one and says which ones survive.

Some are named, each a way the training loop could go wrong unseen; the others are drawn from the syntax trees of a
package by a seed. A mutant runs in a copy of the tree, against the quick unit tests of its package. Example:
``python tests/mutants.py --packages gare/objective --sample 20``.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SECONDS = 900
TESTS = {
    "gare/model": ["tests/unit/model", "tests/unit/training/test_wiring.py", "tests/unit/training/test_step.py"],
    "gare/objective": ["tests/unit/objective"],
    "gare/data": ["tests/unit/test_order.py", "tests/unit/test_noise.py", "tests/unit/test_feed.py",
                  "tests/unit/test_augment.py", "tests/unit/test_views.py", "tests/unit/test_shards_reading.py",
                  "tests/unit/test_stored_against_used.py", "tests/unit/cache"],
    "gare/training": ["tests/unit/training"],
    "gare/retrieval": ["tests/unit/retrieval"],
    "tune": ["tests/unit/tune"],
}  # fmt: skip
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
}  # fmt: skip
NAMED = [
    ("gare/training/step.py", "        model.clamp_logit_scale()\n", "", "the logit scale is not clamped"),
    ("gare/training/loop.py", "learning_rate_factor(state.step,", "learning_rate_factor(state.step + 1,",
     "the learning rate is a step ahead"),
    ("gare/training/loop.py", "learning_rate_factor(state.step,", "learning_rate_factor(state.batch,",
     "the schedule begins again with each epoch"),
    ("gare/training/loop.py", "data.batches(config, state.epoch)", "data.batches(config, 0)",
     "every epoch has the order of the first"),
    ("gare/training/step.py", "config.train.seed, step, first_text", "config.train.seed, 0, first_text",
     "dropout is the same in every step"),
    ("gare/training/step.py", "config.train.seed, step, first_text", "0, step, first_text",
     "dropout does not depend on the seed"),
    ("gare/training/optimiser.py", "AdamW(groups, betas=(config.beta1, config.beta2),", "AdamW(groups,",
     "AdamW takes torch's betas"),
    ("gare/training/step.py", "        scaler.unscale_(optimiser)\n", "        pass\n",
     "gradients are clipped before they are unscaled"),
    ("gare/training/step.py", "        if ema is not None:\n            ema.update()",
     "    if ema is not None:\n        ema.update()", "the average takes in steps that are left out"),
    ("gare/training/optimiser.py", ', "clip.vision_model.embeddings.class_embedding"', "",
     "the class embedding is decayed"),
    ("gare/training/optimiser.py", "nn.LayerNorm | nn.Embedding", "nn.Embedding", "norms are decayed"),
    ("gare/training/optimiser.py", '"temporal.positions", ', "", "frame positions are decayed"),
    ("gare/training/encoding.py", "        self._set(self._states)\n", "        pass\n",
     "the second pass over pieces draws other numbers"),
    ("gare/model/temporal.py", "NORM_EPS = 1e-12", "NORM_EPS = 1e-5", "norms over time have CLIP's epsilon"),
    ("gare/model/increment.py", "                nn.init.normal_(module.weight, std=INIT_STD)\n", "",
     "psi starts as torch's layers do"),
]  # fmt: skip
"""File, text, what takes its place, and the fault in words."""


class Mutant(NamedTuple):
    """A file below the root, its text with the change, and the change in words."""

    file: Path
    text: str
    change: str


def named(package: str) -> Iterator[Mutant]:
    """The named mutants of a package."""
    for file, old, new, change in NAMED:
        if file.startswith(f"{package}/"):
            text = (ROOT / file).read_text()
            if text.count(old) != 1:
                raise SystemExit(f"{file} does not hold {old!r} once; bring NAMED up to date.")
            yield Mutant(Path(file), text.replace(old, new), change)


def drawn(package: str, count: int, seed: int) -> list[Mutant]:
    """Mutants drawn evenly from all places of a package where one can be made."""
    files = sorted((ROOT / package).rglob("*.py"))
    places = [(file, index) for file in files for index in range(len(list(_places(ast.parse(file.read_text())))))]
    return [_made(*place) for place in random.Random(seed).sample(places, min(count, len(places)))]


def _places(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Every node that can be changed, and how."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.BoolOp | ast.BinOp):
            operator = node.ops[0] if isinstance(node, ast.Compare) else node.op
            if type(operator) in SWAPS:
                yield node, "operator"
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield node, "constant"
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            yield node, "condition"
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, "statement"


def _made(file: Path, index: int) -> Mutant:
    tree = ast.parse(file.read_text())
    node, kind = list(_places(tree))[index]
    before = ast.unparse(node).splitlines()[0]
    if isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.BoolOp | ast.BinOp):
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.Constant):
        node.value = (not node.value) if isinstance(node.value, bool) else node.value + 1
    elif kind == "condition":
        node.test = ast.UnaryOp(ast.Not(), node.test)
    else:
        node.value = ast.Constant(None)
    change = f"line {node.lineno}: {before} -> {ast.unparse(node).splitlines()[0]}"
    return Mutant(file.relative_to(ROOT), ast.unparse(ast.fix_missing_locations(tree)), change)


def survives(mutant: Mutant, copy: Path, tests: list[str]) -> bool:
    """Whether the tests pass with the mutant in place; a hang counts as noticed."""
    target = copy / mutant.file
    whole = target.read_text()
    target.write_text(mutant.text)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow and not soak and not ray", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return False
    finally:
        target.write_text(whole)
    return done.returncode == 0


def main() -> None:
    """Print each survivor as it is found, and then the share of survivors by package."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--packages", nargs="+", choices=TESTS, default=list(TESTS))
    parser.add_argument("--sample", type=int, default=10, help="mutants drawn from each package; 0: the named alone")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "demo", "__pycache__"))
        for package in chosen.packages:
            mutants = [*named(package), *drawn(package, chosen.sample, chosen.seed)]
            survivors = [mutant for mutant in mutants if survives(mutant, copy, TESTS[package])]
            for mutant in survivors:
                print(f"survives: {mutant.file} {mutant.change}")
            print(f"{package}: {len(survivors)} of {len(mutants)} survive (seed {chosen.seed})", flush=True)


if __name__ == "__main__":
    main()
