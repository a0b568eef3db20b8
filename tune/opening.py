"""Open a sweep's folder, new or existing, and find the trials that its record still lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gare.common.console import note
from gare.common.errors import ConfigError
from gare.common.files import canonical_json, digest_of
from gare.common.occupied import lies_in, refuse_occupied
from gare.config import Config
from gare.config.tree import diff, with_overrides
from gare.runs.layout import absolute
from gare.runs.run import outdated
from gare.runs.state import read_state
from tune.record import SEED, SweepRecord, Trial
from tune.space import Overrides, Planned, expand, setting

NOT_THE_SWEEP = {"max_concurrent"}


def sweep_name(config: Config) -> str:
    """Return ``runtime.name``, or a name from the experiment and the sweep around it."""
    return config.runtime.name or f"sweep-{_digest(config, NOT_THE_SWEEP)}"


def resolved(config: Config) -> Config:
    """Fill in the sweep's name and make paths absolute: trials run in other folders."""
    return absolute(with_overrides(config, {"runtime.name": sweep_name(config)}))


def open_record(config: Config, folder: Path, dataset: dict[str, str], extend: int = 0) -> tuple[SweepRecord, Config]:
    """Open the folder's record, with ``extend`` more of ``sweep.trials``, or make a new one without rows.

    Returns it with the settings of all trials. Raises ConfigError if the folder holds another sweep, a training run or
    a sweep over other shards, and if there is nothing to extend.
    """
    if lies_in(folder) != "a sweep":
        if extend:
            raise ConfigError(f"{folder} holds no sweep yet, so there is nothing to extend; set sweep.trials.")
        refuse_occupied(folder)
        key = _key(config)
        plain = config.model_dump(mode="json")
        return SweepRecord(name=config.run_name(), key=key, config=plain, trials=[], dataset=dataset), config
    record = SweepRecord.read(folder)
    before = record.settings()
    _refuse_other(config, before, record, folder)
    _refuse_other_data(before, config, record, dataset, folder)
    config = with_overrides(config, {"sweep.trials": before.sweep.trials + extend})
    if extend:
        _refuse_no_more(before, config, record)
    _refuse_older_trials(config, record)
    record.extended += extend
    record.key, record.dataset = _key(config), dataset
    record.config = config.model_dump(mode="json")
    return record, config


def missing(config: Config, record: SweepRecord) -> list[Planned]:
    """List the trials that are known in advance and that the record does not have yet, in order."""
    have = {_identity(trial.case, trial.overrides) for trial in record.trials}
    return [planned for planned in expand(config) if _identity(planned.case, planned.overrides) not in have]


def _refuse_other(config: Config, before: Config, record: SweepRecord, folder: Path) -> None:
    # Compared as settings, not by the recorded key: the key's content changes with the version.
    if _key(config) != _key(before):
        keys = ", ".join(_changed(config, before)[:5])
        raise ConfigError(f"{folder} holds another sweep ({keys} differ); choose another runtime.name.")
    asked, first, now = config.sweep.trials, before.sweep.trials - record.extended, before.sweep.trials
    if asked not in (first, now):
        raise ConfigError(
            f"The sweep {record.name} has sweep.trials {now}, not {asked}; gare sweep --resume {record.name} "
            "--extend N adds N more, and another runtime.name starts a new sweep."
        )


def _refuse_other_data(
    before: Config, config: Config, record: SweepRecord, dataset: dict[str, str], folder: Path
) -> None:
    if not record.dataset or not dataset:
        return
    if record.dataset != dataset:
        raise ConfigError(
            f"The trials in {folder} read other shards (dataset {record.dataset.get('dataset_digest')}, not "
            f"{dataset.get('dataset_digest')}); name those, or choose another runtime.name."
        )
    if before.runtime.shards != config.runtime.shards:
        note(f"The same shards as before, now at {config.runtime.shards}.")


def _refuse_older_trials(config: Config, record: SweepRecord) -> None:
    """Refuse to combine trials of two versions of the computation in one comparison."""
    if all(trial.settled for trial in record.trials) and not missing(config, record):
        return
    for trial in record.trials:
        state = read_state(Path(trial.directory))
        before = None if state is None else outdated(with_overrides(config, trial.overrides), state)
        if before is not None:
            raise ConfigError(f"{trial.name} of the sweep began when {before}. Start again under another runtime.name.")


def _refuse_no_more(before: Config, config: Config, record: SweepRecord) -> None:
    if config.sweep.search == "random" and len(expand(config)) == len(expand(before)):
        raise ConfigError(
            f"The sweep {record.name} has no more trials to add: every combination of its grids, cases, choices and "
            "seeds is in it already."
        )


def _changed(config: Config, before: Config) -> Sequence[str]:
    elsewhere = ("runtime.", "sweep.trials", "sweep.max_concurrent")
    return [key for key in diff(before, config) if not key.startswith(elsewhere)] or ["its settings"]


def _key(config: Config) -> str:
    return _digest(config, NOT_THE_SWEEP | {"trials"})


def _digest(config: Config, without: set[str]) -> str:
    return digest_of(
        {"experiment": config.experiment(), "sweep": config.sweep.model_dump(mode="json", exclude=without)}
    )


def _identity(case: str | None, overrides: Overrides) -> str:
    return canonical_json([case, overrides])


def confirmations(config: Config, record: SweepRecord) -> list[Planned]:
    """List the trials of the confirm stage: a search's best ``sweep.confirm`` settings with each of ``sweep.seeds``.

    Settings stopped early come after those that were trained to the end, whatever their metric. A trial that the search
    trained to the end is not planned again: the same settings and seed give the same run.
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
