"""Stage: evaluate, index and search the same made-up videos on the CPU and on the device."""

from __future__ import annotations

from pathlib import Path

import torch
from common.made import caption, made_shards

from gare.config.tree import load_config
from gare.data.shards import ShardSet
from gare.evaluation.evaluate import evaluate
from gare.model import GareModel
from gare.model.scratch import ScratchClip, make_clip
from gare.retrieval.build import write_index
from gare.retrieval.model import IndexModel
from gpu_check.report import Found, within
from gpu_check.setting import Sizes

SIDE, FRAMES = 32, 4


def gallery(device: torch.device, sizes: Sizes, folder: Path) -> Found:
    """Compare scores, metrics and the answers of an index; frames are stored in float32."""
    shards = ShardSet(made_shards(folder / "gallery", 1, FRAMES, SIDE, shortest=1, dev=sizes.videos))
    captions = [caption(number) for number in range(200)]
    make_clip(captions, folder / "small-clip", ScratchClip(SIDE, 16, 128, 2, 2, 16, 600))
    config = load_config(
        None, [f"data.frames={FRAMES}", "data.words=16", "model.temporal_layers=1", "runtime.eval_batch=64"]
    )
    torch.manual_seed(0)
    model = GareModel.from_clip(folder / "small-clip", config.model).eval()
    tokenizer = model.tokenizer
    assert tokenizer is not None
    scores, metrics, answers = {}, {}, {}
    for where in (torch.device("cpu"), device):
        model.to(where)
        done = evaluate(model, tokenizer, shards.split("dev"), config)
        scores[where.type], metrics[where.type] = torch.from_numpy(done.scores.whole()), done.metrics
        of_index = IndexModel(model, tokenizer, config, "made up", "0" * 64)
        index = write_index(folder / f"index-{where.type}", of_index, shards, "dev", storage="float32")
        answers[where.type] = [hit for asked in captions[:20] for hit in index.search(asked, 5)]
    pairs = zip(answers["cpu"], answers[device.type], strict=True)
    found: Found = {
        "videos": sizes.videos,
        "scores": float((scores["cpu"] - scores[device.type]).abs().max()),
        "metrics": max(abs(value - metrics[device.type][name]) for name, value in metrics["cpu"].items()),
        "answers": max(abs(one.score - other.score) for one, other in pairs),
    }
    # Two videos whose scores differ by rounding may change places.
    return within(found, {"scores": 1e-5, "metrics": 1.0, "answers": 1e-5})
