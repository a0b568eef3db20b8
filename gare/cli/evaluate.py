"""``gare evaluate`` and ``gare zero-shot``: retrieval on a split, by a checkpoint and by CLIP without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.checkpoint import CHECKPOINT, SHARDS, SPLIT, open_checkpoint, open_dataset, usable
from gare.cli.command import config_options, gare_command
from gare.cli.evaluation import Wanted, evaluation_options, run_evaluation
from gare.common.console import warn

if TYPE_CHECKING:
    from gare.config import Config
    from gare.data.shards import ShardSet
    from gare.model.gare import GareModel

PLACE = click.Path(path_type=Path)


@gare_command("evaluate", short_help="Measure retrieval on a split.")
@CHECKPOINT
@SHARDS
@SPLIT
@click.option("--out", type=PLACE, help="Folder for the results; CHECKPOINT/evaluation/SPLIT when left out.")
@evaluation_options
@config_options
def evaluate(
    checkpoint: str, shards: str, split: str, out: Path | None, overrides: tuple[str, ...], **options: Any
) -> dict[str, Any]:
    """Measure how well CHECKPOINT (or the best one of a run's folder) retrieves a split, in both directions.

    Writes the figures (metrics.json), the rank of every query (ranks.parquet) and a page to look at (report.html).
    Every caption is a text query; a video query counts its best-ranked caption. Post-processed figures are added to the
    raw ones and never replace them. An evaluation of another dataset, split or checkpoint that is in the folder already
    is replaced only with --overwrite.

    \b
    Examples:
      gare evaluate runs/demo --shards shards --split test
      gare evaluate runs/demo --shards shards --query-bank 1000 --save-scores
    """
    from gare.cli.selection import selection
    from gare.data.batches import check_fit
    from gare.evaluation.scorer import GareScorer
    from gare.model.checkpoint import load_checkpoint_config

    wanted = Wanted(**options)
    with open_checkpoint(checkpoint, shards, overrides) as (folder, model, dataset, config):
        scorer = GareScorer(model, check_fit(model, dataset, config), config, wanted.frames)
        rows = dataset.split(split)
        # By the settings that it was trained with: an override changes what is measured, not what was seen.
        chosen = selection(folder, load_checkpoint_config(folder), dataset, rows)
        place = out or folder / "evaluation" / wanted.folder(split)
        values = run_evaluation(scorer, chosen, str(folder), rows, dataset, place, wanted)
    if config.runtime.tracking:
        from gare.launch.tracked import record_evaluation

        record_evaluation(folder, wanted.folder(split), values)
    return values


@gare_command("zero-shot", short_help="Measure CLIP without training, as a baseline.")
@click.argument("clip")
@SHARDS
@SPLIT
@click.option("--out", type=PLACE, help="Folder for the results; zero-shot/CLIP/SPLIT when left out.")
@evaluation_options
@config_options
def zero_shot(
    clip: str, shards: str, split: str, out: Path | None, overrides: tuple[str, ...], **options: Any
) -> dict[str, Any]:
    """Measure how well CLIP retrieves a split without any training: the baseline for what was trained.

    CLIP is a folder or hub id of a CLIP, SigLIP or MetaCLIP 2. A video is the mean of its frames' normalised image
    embeddings, a score the cosine of that with the text embedding. data.words is all that CLIP reads unless --set says
    otherwise. Writes what gare evaluate writes.

    \b
    Examples:
      gare zero-shot openai/clip-vit-base-patch32 --shards shards --split test
      gare zero-shot clip --shards shards --set data.frames=8 --set data.words=24
    """
    from gare.cli.selection import zero_shot as chosen
    from gare.data.batches import check_fit
    from gare.evaluation.scorer import GareScorer
    from gare.training.numerics import numerics

    wanted = Wanted(**options)
    model, dataset, config = _open_clip(clip, shards, overrides)
    place = out or Path("zero-shot") / Path(clip).name / wanted.folder(split)
    with numerics(config):
        scorer = GareScorer(model, check_fit(model, dataset, config), config, wanted.frames)
        return run_evaluation(scorer, chosen(clip), clip, dataset.split(split), dataset, place, wanted)


def _open_clip(clip: str, shards: str, overrides: tuple[str, ...]) -> tuple[GareModel, ShardSet, Config]:
    """CLIP's towers on their device, the shards, and settings that fit both, with the overrides."""
    from gare.config import Config, ModelConfig, PrepareConfig
    from gare.config.tree import build, with_overrides
    from gare.data.batches import unlike_prepared
    from gare.model.gare import GareModel
    from gare.runs.inputs import choose_device

    changes = usable(overrides, "is part of training, which there is none of; gare zero-shot")
    dataset = open_dataset(shards, changes)
    model = GareModel.from_clip(clip, ModelConfig(head="mean_pool", temporal_layers=0))
    values = Config().model_dump(mode="json")
    values["prepare"] |= {key: value for key, value in dataset.recipe.items() if key in PrepareConfig.model_fields}
    stored = values["prepare"]["max_frames"]
    values["model"] |= {"clip": clip, "max_frames": max(stored, values["model"]["max_frames"])}
    values["data"] |= {
        "frames": stored,
        "words": int(model.clip.config.text_config.max_position_embeddings),
    }
    config = with_overrides(build(values, str(dataset.folder)), changes)
    unlike = unlike_prepared(model.pixels, dataset.short_side, config.data)
    if unlike is not None:
        warn(unlike)
    return model.eval().to(choose_device(config.runtime.device)), dataset, config
