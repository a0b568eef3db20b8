"""``gare.compare``: compare the trials of a sweep, or two evaluations, and tell if a difference is more than chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tune.comparison
from gare.api import public
from gare.api.settings import Place, between, check_text, local_path, whole
from gare.common.console import warn
from gare.common.errors import InputError
from gare.common.files import write_json
from gare.common.occupied import refuse_part
from gare.common.records import load_json
from gare.common.redact import first_line
from gare.common.storage import read_file
from gare.common.text import folder_name
from gare.config import RuntimeConfig
from gare.evaluation.metrics.bootstrap import RESAMPLES
from gare.evaluation.metrics.paired import PairedRanking, compare_tables
from gare.evaluation.metrics.query_table import RANKS_FILE, QueryTable, read_queries
from gare.evaluation.results import METRICS_FILE
from gare.runs.state import resolve_checkpoint
from tune.comparison import Comparison
from tune.record import SWEEP_FILE


@dataclass(frozen=True)
class EvaluationComparison:
    """Two evaluations of the same queries, A and B, ranking by ranking.

    ``sides``: for "a" and "b" the file of ranks, the split and the dataset's digest. ``verdict``: the conclusion from
    the interval of text-to-video R@1.
    """

    sides: Mapping[str, Mapping[str, str]]
    ties: str
    level: float
    resamples: int
    seed: int
    rankings: tuple[PairedRanking, ...]
    verdict: str

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        found = {ranking.name: asdict(ranking) | {"queries": ranking.queries} for ranking in self.rankings}
        settings = {"ties": self.ties, "level": self.level, "resamples": self.resamples, "seed": self.seed}
        return {**self.sides, **settings, "rankings": found, "verdict": self.verdict}


@public
def compare(
    *places: Place,
    out: Place | None = None,
    baseline: str | None = None,
    split: str = "test",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison | EvaluationComparison:
    """Rank the settings of a sweep, or compare two evaluations query by query.

    Args:
        *places: a sweep's folder, or its name in the folder runs; or two folders A and B of runs, checkpoints or
            evaluations that ``gare.evaluate`` wrote.
        out: a sweep: folder for its files, by default the sweep's own; evaluations: JSON file.
        baseline: a sweep: the case or trial to compare with, chosen before you look.
        split: evaluations: the split they were made on.
        level: evaluations: level of the intervals.
        resamples: evaluations: resamples of the paired bootstrap over videos.
        seed: evaluations: seed of the bootstrap.

    Raises:
        ConfigError: there is no such baseline.
        InputError: a folder is not one of these, or the evaluations cannot be compared.
    """
    between("level", level, 0.5, 0.9999)
    resamples, seed = whole("resamples", resamples, 100, 10**6), whole("seed", seed, 0)
    check_text("split", split)
    paths = [local_path("places", place) for place in places]
    file = None if out is None else local_path("out", out)
    if len(paths) == 1:
        return tune.comparison.compare(_sweep_folder(paths[0]), file, baseline)
    if len(paths) != 2:
        raise InputError(f"These are {len(paths)} folders; give one sweep, or two evaluations.")
    if baseline is not None:
        raise InputError("--baseline is for a sweep; you gave two folders.")
    a, b = paths
    return _compare_evaluations(a, b, file, split, level=level, resamples=resamples, seed=seed)


def find_sweep(place: str | Path) -> Path:
    """Find a sweep's folder, given as a path or as its name in the folder runs. Raises InputError if there is none."""
    for folder in (Path(place), Path(RuntimeConfig().output) / place):
        if folder.is_dir():
            return folder
    raise InputError(f"There is no sweep {place}; give the folder of a gare sweep.")


def _sweep_folder(place: Path) -> Path:
    folder = find_sweep(place)
    if (folder / RANKS_FILE).is_file() or not (folder / SWEEP_FILE).exists():
        raise InputError(f"{folder} is not a sweep; to compare two evaluations, name both.")
    return folder


def _compare_evaluations(
    a: Path, b: Path, out: Path | None, split: str, *, level: float, resamples: int, seed: int
) -> EvaluationComparison:
    if out is not None:
        refuse_part(out)
    places = {"a": ranks_file(a, split), "b": ranks_file(b, split)}
    tables = {side: read_queries(path) for side, path in places.items()}
    _remark(tables["a"], tables["b"])
    for side, path in places.items():
        for caution in cautions_of(path.parent):
            warn(f"{side.upper()}: {caution}")
    paired = compare_tables(tables["a"], tables["b"], level=level, resamples=resamples, seed=seed)
    first = next((ranking for ranking in paired if ranking.name == "t2v"), paired[0])
    sides = {
        side: {"ranks": str(places[side]), "split": table.split, "dataset_digest": table.dataset_digest}
        for side, table in tables.items()
    }
    ties, verdict = tables["a"].ties, first.verdict(level)
    found = EvaluationComparison(sides, ties, level, resamples, seed, tuple(paired), verdict)
    if out is not None:
        write_json(out, found.as_json())
    return found


def ranks_file(place: Path, split: str) -> Path:
    """Find the ranks per query in an evaluation's folder, or in a checkpoint's or run's evaluation of ``split``."""
    if (place / RANKS_FILE).is_file():
        return place / RANKS_FILE
    if not place.is_dir():
        raise InputError(f"There is no folder {place}; give the folder of a run, a checkpoint or an evaluation.")
    path = resolve_checkpoint(place) / "evaluation" / folder_name(split) / RANKS_FILE
    if not path.is_file():
        raise InputError(
            f"{place} has no evaluation of {split!r} with the rank of every query (there is no {path}); run gare "
            f"evaluate {place} --shards SHARDS --split {split} first."
        )
    return path


def cautions_of(evaluation: Path) -> list[str]:
    """Read the cautions in an evaluation's own record; empty if it has none."""
    path = evaluation / METRICS_FILE
    text = read_file(path)
    if text is None:
        return []
    try:
        said = load_json(text, nan=True).get("selection", {}).get("cautions", [])
        return [str(caution) for caution in [*said]]
    except (ValueError, TypeError, AttributeError) as error:
        return [f"{path} is damaged ({first_line(error)}), and its cautions are not known."]


def _remark(a: QueryTable, b: QueryTable) -> None:
    """Warn of differences that still allow comparing the same queries."""
    if a.dataset_digest != b.dataset_digest:
        warn("A and B were evaluated on different shards of the same queries; the videos' frames may differ.")
    alone = [name for name in {**a.queries, **b.queries} if name not in a.queries or name not in b.queries]
    if alone:
        warn(f"Only one of them has {', '.join(alone)}, which cannot be compared.")
