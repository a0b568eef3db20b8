"""The searcher of a sweep, and the settings it found that are confirmed with every seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gare.common.files import canonical_json
from gare.config import Config
from tune.record import SweepRecord, Trial
from tune.space import SEED, Add, Chosen, Planned, setting

if TYPE_CHECKING:
    from tune.study import StudySearch


def searcher(config: Config, folder: Path, record: SweepRecord, add: Add, chosen: Chosen) -> StudySearch | None:
    """What suggests the trials of the search stage, for ``ray.tune.TuneConfig(search_alg=...)``; None for random.

    The record is the truth, and the study in the sweep's ``folder`` is brought up to it. Rows that have not ended are
    suggested first, as they are; then ``sweep.trials`` less the rows there are, new ones, each handed to ``add``
    before Tune hears of it. ``remaining`` of the answer is the ``num_samples`` Tune needs.
    """
    if config.sweep.search == "random":
        return None
    from tune.study import StudySearch

    return StudySearch(config, folder, record, add, chosen)


def confirmations(config: Config, record: SweepRecord) -> list[Planned]:
    """The trials of the confirm stage: the best ``sweep.confirm`` settings of a search with each of ``sweep.seeds``.

    Settings stopped early come after those that were trained to the end, whatever their metric. What was trained to the
    end while searching is not planned again: the same settings and seed give the same run.
    """
    sweep = config.sweep
    sign = -1.0 if sweep.mode == "max" else 1.0
    searched = [t for t in record.trials if t.stage == "search" and sweep.metric in t.metrics]
    able = [t for t in searched if t.status in {"done", "stopped"}]
    best: dict[str, Trial] = {}
    for trial in sorted(able, key=lambda t: (t.status != "done", sign * t.metrics[sweep.metric])):
        best.setdefault(canonical_json(setting(trial.overrides)), trial)
    done = {canonical_json(trial.overrides) for trial in able if trial.status == "done"}
    wanted = [
        Planned(None, dict(sorted((setting(trial.overrides) | {SEED: seed}).items())))
        for trial in list(best.values())[: sweep.confirm]
        for seed in sweep.seeds or []
    ]
    return [planned for planned in wanted if canonical_json(planned.overrides) not in done]
