"""Describe how an evaluated checkpoint was chosen, which you must know before you read its figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gare.common.records import load_json
from gare.common.storage import read_file
from gare.data.samples import test_cautions, trained_on
from gare.model.import_checkpoint import IMPORT_FILE
from gare.runs.layout import CHECKPOINT_FILE, CHECKPOINTS
from gare.runs.state import RunState, read_state

if TYPE_CHECKING:
    from gare.config import Config
    from gare.data.shards import ShardSet, Split


@dataclass(frozen=True)
class Selection:
    """``rule``: dev, last, other, imported, unknown or zero-shot; ``says``: the same as a phrase.

    ``title``: the model's name; ``experiment``: the digest of its training settings, if there are any; ``cautions``:
    sentences to read before its figures.
    """

    rule: str
    says: str
    title: str
    experiment: str | None = None
    cautions: list[str] = field(default_factory=list)


def selection(folder: Path, config: Config, dataset: ShardSet, split: Split) -> Selection:
    """Find out how the checkpoint in ``folder`` was chosen, and what to know of its evaluation on ``split``."""
    folder = folder.resolve()
    run, made = folder.parent.parent, _made(folder)
    state = read_state(run) if folder.parent.name == CHECKPOINTS else None
    title = folder.name
    if (folder / IMPORT_FILE).is_file():
        rule, says = (
            "imported",
            "not known: an imported file does not say; the released code keeps the best on the test split",
        )
    elif state is None:
        at = f", epoch {made['epoch']} of some run" if "epoch" in made else ""
        rule, says = "unknown", f"not known: the folder is not part of a run{at}"
    else:
        title = f"{run.name}, {folder.name}"
        rule, says = _in_run(folder.name, made.get("epoch"), config, state, dataset)
    return Selection(rule, says, title, made.get("config_digest"), _cautions(rule, config, split))


def zero_shot_selection(source: str) -> Selection:
    """Return the selection of CLIP without training."""
    name = Path(source).name or source
    return Selection("zero-shot", "zero-shot: CLIP as it comes, nothing was trained", f"zero-shot CLIP {name}")


def _in_run(name: str, epoch: Any, config: Config, state: RunState, dataset: ShardSet) -> tuple[str, str]:
    """Return rule and phrase for the checkpoint ``name`` of a run."""
    at = f"epoch {epoch} of {state.epochs(config)}"
    unfinished = "" if state.finished else f"; the run is at epoch {state.epoch} and not finished"
    if config.protocol.dev == "none":
        if name == state.best:
            return "last", f"the last epoch, {at}, of a run without a dev split{unfinished}"
        return "other", f"by hand: {at}, of a run without a dev split whose last is {state.last}{unfinished}"
    dev = config.data.dev_split
    same = state.dataset_digest == dataset.digest and dev in dataset.splits
    size = f" of {dataset.splits[dev]['videos']:,} videos" if same else ""
    if name == state.best:
        return "dev", f"by the best {config.train.select_by} on the split {dev!r}{size}: {at}{unfinished}"
    return "other", f"by hand: {at}, where the split {dev!r}{size} chose {state.best}{unfinished}"


def _cautions(rule: str, config: Config, split: Split) -> list[str]:
    if rule == "imported":
        return []
    cautions = test_cautions(config)
    trained = trained_on(config, split)
    if trained:
        which = "these videos" if trained == len(split) else f"{trained:,} of these {len(split):,} videos"
        return [*cautions, f"By its settings the model was trained on {which}: the figures say little about new ones."]
    if rule == "dev" and split.name == config.data.dev_split:
        return [*cautions, "The checkpoint was chosen on a split of this name, so the figures are a little too good."]
    return cautions


def _made(folder: Path) -> dict[str, Any]:
    """Read what training wrote about the checkpoint; empty if there is nothing or it is damaged."""
    try:
        made = load_json(read_file(folder / CHECKPOINT_FILE) or "{}", nan=True)
    except ValueError:
        return {}
    return made if isinstance(made, dict) else {}
