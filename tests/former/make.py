"""Make the archive of files that an earlier version wrote: shards, runs, an index, an evaluation and a sweep.

Run it once per format worth keeping, with that version's checkout on the path and its commit in the archive's name:

    PYTHONPATH=CHECKOUT python tests/former/make.py tests/former/COMMIT.tar.xz

It only calls that version's command line, so it does not change with it. The videos are those of ``gare corpus``; the
towers are 8 wide, which keeps the archive small. ``recorded.json`` holds what that version answered.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

CONFIG = """
model: {clip: clip, temporal_layers: 1, max_frames: 3}
data: {frames: 2, words: 12}
prepare: {max_frames: 2, policy: uniform, short_side: 16, crop: 16}
train: {global_batch: 3, epochs: 6, seed: 0, lr_clip: 1.0e-3, lr_new: 1.0e-3}
runtime: {shards: shards, output: runs, device: cpu, log_every: 1, tracking: false, workers: 1}
sweep: {space: {objective.trust_region.weight: {grid: [0.0, 0.01]}}, metric: dev/t2v/R@1}
"""
QUERY = "a small red circle moving left"
SPLIT = ("--shards", "shards", "--split", "test")


def gare(*arguments: str) -> dict:
    """Run a command in the archive's folder and return its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "gare", *arguments, "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"gare {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def make_clip(folder: str) -> None:
    """Write a CLIP narrower than ``gare make-clip`` offers, with its tokenizer."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    gare("make-clip", "manifest.parquet", "--out", folder, "--image-size", "16", "--patch-size", "8", "--width", "64",
         "--vision-layers", "1", "--text-layers", "1", "--vocabulary", "514")  # fmt: skip
    config = CLIPConfig.from_pretrained(folder)
    for tower in (config.text_config, config.vision_config):
        tower.hidden_size, tower.intermediate_size, tower.num_attention_heads, tower.projection_dim = 8, 16, 1, 8
    config.projection_dim = 8
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)


def train_until_killed(name: str) -> None:
    """Start a run and kill its process when it is in its third epoch."""
    command = [sys.executable, "-m", "gare", "train", "config.yaml", "--local", "--set", f"runtime.name={name}"]
    process = subprocess.Popen(command)
    history = Path("runs", name, "history.jsonl")
    while process.poll() is None:
        if history.exists() and '"epoch": 2' in history.read_text():
            process.send_signal(signal.SIGKILL)
        time.sleep(0.001)
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"{name} was not killed in time.")


def make() -> dict:
    """Make everything in the current folder; returns what to compare with."""
    Path("config.yaml").write_text(CONFIG)
    gare("corpus", "--out", "corpus", "--videos", "12")
    gare("manifest", "csv", "corpus/captions.csv", "--columns", "video_id=video_id,uri=file,captions=caption",
         "--attributes", "shape,colour,size,motion", "--root", "corpus", "--out", "manifest.parquet")  # fmt: skip
    gare("prepare", "manifest.parquet", "--out", "shards", "--config", "config.yaml", "--local")
    make_clip("clip")
    gare("train", "config.yaml", "--local", "--set", "runtime.name=finished")
    train_until_killed("interrupted")
    evaluation = gare("evaluate", "runs/finished", *SPLIT, "--out", "evaluation")
    index = gare("index", "runs/finished", *SPLIT, "--out", "index")
    answers = gare("search", "index", QUERY, "--top", "3")
    gare("sweep", "config.yaml", "--set", "runtime.name=sweep", "--set", "train.epochs=1")
    compared = gare("compare", "runs/sweep")
    return {"evaluation": evaluation, "index": index, "query": QUERY, "search": answers, "compare": compared}


def main() -> None:
    """Make the files in a temporary folder and pack them."""
    out = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        recorded = make()
        Path("recorded.json").write_text(json.dumps(recorded))
        for scrap in (Path("corpus/videos"), *Path("runs/sweep").rglob(".tune"), *Path("runs/sweep").rglob(".ray")):
            shutil.rmtree(scrap)
        with lzma.open(out, "wb", preset=9) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
            for name in sorted(path.name for path in Path().iterdir()):
                archive.add(name)


if __name__ == "__main__":
    main()
