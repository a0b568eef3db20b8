"""Who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("gare", "pipelines", "tune")
RAY_HERE = (
    "pipelines/",
    "tune/",
    "gare/launch/ray_",
    "gare/common/ray_cluster.py",  # nodes and the autoscaler, for the data job and training alike
    "gare/common/ray_data.py",  # how its jobs run, for the data job and indexes alike
    "gare/doctor/ray_nodes.py",
    "gare/jobs/",
    "gare/cli/",
)
FRONT_DOORS = ("gare/__init__.py", "gare/api/", "gare/cli/")
MLFLOW_HERE = ("gare/tracking/", "tune/")


def imports():
    """(file, imported module) for every import statement, inside functions too."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    yield from ((name, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    yield from ((name, f"{node.module}.{alias.name}") for alias in node.names)


def breaking(rule):
    return [f"{file} imports {module}" for file, module in imports() if rule(file, module)]


def of(module, package):
    return module == package or module.startswith(package + ".")


def test_pipelines_know_only_the_contract():
    allowed = ("gare.config", "gare.schema", "gare.common")
    assert not breaking(
        lambda file, module: (
            file.startswith("pipelines/")
            and (of(module, "tune") or (of(module, "gare") and not any(of(module, a) for a in allowed)))
        )
    )


def test_gare_knows_neither_pipelines_nor_tune_except_at_its_front_doors():
    assert not breaking(
        lambda file, module: (
            file.startswith("gare/")
            and not file.startswith(FRONT_DOORS)
            and (of(module, "pipelines") or of(module, "tune"))
        )
    )


def test_nothing_depends_on_the_front_doors_but_the_commands_on_the_api():
    assert not breaking(
        lambda file, module: (
            (of(module, "gare.api") and not file.startswith(FRONT_DOORS))
            or (of(module, "gare.cli") and not file.startswith(("gare/__main__.py", "gare/cli/")))
        )
    )


def test_scoring_knows_no_model_and_no_data():
    allowed = ("gare.scoring", "gare.config", "gare.objective", "gare.common")
    assert not breaking(
        lambda file, module: (
            file.startswith("gare/scoring/") and of(module, "gare") and not any(of(module, a) for a in allowed)
        )
    )


def test_ray_stays_where_it_belongs():
    assert not breaking(lambda file, module: of(module, "ray") and not file.startswith(RAY_HERE))


def test_mlflow_stays_where_it_belongs():
    assert not breaking(lambda file, module: of(module, "mlflow") and not file.startswith(MLFLOW_HERE))


def test_transformers_stays_where_it_belongs():
    """Importing its models takes seconds, in every command that loads one."""
    here = ("gare/model/scratch.py", "gare/model/transformer.py")
    assert not breaking(lambda file, module: of(module, "transformers") and file not in here)


def test_inside_tune_ray_tune_has_its_own_name():
    for path in (ROOT / "tune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "ray":
                assert all(a.asname == "ray_tune" for a in node.names if a.name == "tune"), path


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (
            "gare, gare.cli, gare.config.tree, gare.schema, gare.common.console, gare.common.files",
            "torch ray mlflow av transformers",
        ),
        ("gare", "torch ray mlflow av transformers pyarrow numpy pydantic click rich"),
        ("gare.model, gare.objective, gare.retrieval.index, gare.evaluation.evaluate", "ray mlflow av transformers"),
        ("gare.scoring.video_index, gare.scoring.increment.head", "ray mlflow av transformers"),
        ("gare.tracking", "mlflow"),
    ],
)
def test_importing_loads_no_more_than_it_must(modules, forbidden):
    code = f"import {modules}; import sys; print([m for m in {forbidden.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def module_of(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


@functools.cache
def known_imports():
    return tuple(_known_imports())


def _known_imports():
    """(module, imported module of ours) for every import that runs, inside functions too; not those for types alone."""
    ours = {module_of(path) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for_types = {
                id(inner)
                for node in ast.walk(tree)
                if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
                for inner in ast.walk(node)
            }
            for node in ast.walk(tree):
                if id(node) in for_types:
                    continue
                found = []
                if isinstance(node, ast.Import):
                    found = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    whole = [f"{node.module}.{alias.name}" for alias in node.names]
                    found = [name if name in ours else node.module for name in whole]
                yield from ((module_of(path), name) for name in found if name in ours)


def package_of(module):
    return ".".join(module.split(".")[: 2 if module.startswith("gare.") else 1]).removeprefix("gare.")


def test_a_package_imports_those_above_it_in_the_table_that_its_row_names():
    table = (ROOT / "docs/architecture.md").read_text().partition("## Packages")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(?:gare\.)?(\w+)` \|[^|]*\|([^|]*)\|", table, re.MULTILINE)
    order = [name for name, _ in rows]
    allowed = {name: set(order if text.strip() == "all" else re.findall(r"`(\w+)`", text)) for name, text in rows}
    found = {(package_of(module), package_of(name)) for module, name in known_imports()}
    found = {(one, other) for one, other in found if one != other and not {"gare", "__main__"} & {one, other}}
    assert {one for pair in found for one in pair} <= set(order)
    assert sorted(pair for pair in found if order.index(pair[1]) > order.index(pair[0])) == []
    assert sorted(pair for pair in found if pair[1] not in allowed[pair[0]]) == []
    unused = [(name, other) for name, text in rows if text.strip() != "all" for other in allowed[name]]
    assert sorted(set(unused) - found) == []


def on_circles(edges):
    """What is left when what imports nothing, or is imported by nothing, is taken away again and again."""
    edges = {(a, b) for a, b in edges if a != b}
    while True:
        kept = {(a, b) for a, b in edges if any(b == c for c, _ in edges) and any(a == d for _, d in edges)}
        if kept == edges:
            return sorted(edges)
        edges = kept


def room_of(module):
    return ".".join(module.split(".")[:2])


def test_no_modules_import_each_other_in_a_circle():
    assert on_circles(known_imports()) == []


def test_no_rooms_import_each_other_in_a_circle():
    assert on_circles((room_of(a), room_of(b)) for a, b in known_imports()) == []


PUBLIC_ALL_THE_SAME = {"_asdict", "_replace", "_exit", "_Hash"}
"""Of named tuples, of os, and a type of hashlib's."""


def private(name):
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC_ALL_THE_SAME


def names_defined(tree):
    """Names of functions, classes, variables and attributes of self that a module defines."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
                yield node.attr


def test_private_names_of_other_packages_are_in_the_files_that_the_documentation_lists():
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    ours = {name for tree in trees.values() for name in names_defined(tree)}
    using = {
        file
        for file, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in ours
    }
    using |= {
        file for file, module in imports() if not module.startswith(PACKAGES) and any(map(private, module.split(".")))
    }
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = page.partition("## Private names of others")[2].partition("\n## ")[0]
    assert using == set(re.findall(r"\| `([\w./]+\.py)` \|", table))
