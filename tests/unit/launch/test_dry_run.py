"""``gare train --dry-run``: every shipped config from a manifest alone, and what is said is what training does."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pyarrow as pa
import pytest

from gare.cli import main
from gare.common.errors import ConfigError, GareError, InputError
from gare.config.tree import load_config, to_yaml
from gare.launch.dry_run.corpus import Corpus
from gare.launch.dry_run.plan import make_plan
from gare.launch.local import fit_local
from gare.model import GareModel
from gare.model.scratch import ScratchClip, make_clip
from gare.schema import MANIFEST, TAKEN_FROM
from gare.training.optimiser import freeze, parameter_groups
from pipelines.manifest.rows import write_manifest

ROOT = Path(__file__).parents[3]
TAKEN = {TAKEN_FROM: "train"}
# Videos, captions of each, and attributes: the benchmarks' splits, dev taken out of train where they publish none.
BENCHMARKS = {
    "msrvtt": {"train": (8503, 20, {}), "dev": (497, 20, TAKEN), "test": (1000, 1, {})},
    "didemo": {"train": (8395, 1, {}), "dev": (1065, 1, {}), "test": (1004, 1, {})},
    "activitynet": {"train": (9509, 1, {}), "dev": (500, 1, TAKEN), "test": (4917, 1, {})},
    "msvd": {"train": (1200, 40, {}), "dev": (100, 43, {}), "test": (670, 41, {})},
    "lsmdc": {"train": (101_055, 1, {}), "dev": (7_408, 1, {}), "test": (1000, 1, {})},
    "demo": {"train": (1200, 3, {}), "dev": (360, 3, {}), "test": (240, 3, {})},
}
TOYS = {"demo", "events", "frames"}  # of a small CLIP that gare make-clip makes
BENCHMARKS |= dict.fromkeys(("events", "frames"), BENCHMARKS["demo"])
BENCHMARKS |= dict.fromkeys(("msrvtt-released", "msrvtt-vit-b16"), BENCHMARKS["msrvtt"])
# Steps in all, with dev held out and with protocol.dev: none.
STEPS = {
    "msrvtt": (5 * (8503 * 20 // 128), 5 * (9000 * 20 // 128)),
    "didemo": (5 * (8395 // 128), 5 * (8395 // 128)),
    "activitynet": (10 * (9509 // 128), 10 * (10009 // 128)),
    "msvd": (5 * (1200 * 40 // 128), 5 * (1200 * 40 // 128)),
    "lsmdc": (5 * (101_055 // 128), 5 * (101_055 // 128)),
    "demo": (20 * (1200 // 64), 20 * (1200 // 64)),
    "events": (6 * (1200 // 64), 6 * (1200 // 64)),
    "frames": (20 * (1200 * 3 // 128), 20 * (1200 * 3 // 128)),
}
STEPS |= dict.fromkeys(("msrvtt-released", "msrvtt-vit-b16"), STEPS["msrvtt"])


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*where, **_):
        raise AssertionError(f"asked the network for {where[:2]}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write(path, splits):
    rows = [
        {
            "video_id": f"{split}{n}",
            "uri": f"/videos/{split}{n}.mp4",
            "split": split,
            "captions": ["a video"] * captions,
            "attributes": list(attributes.items()),
        }
        for split, (videos, captions, attributes) in splits.items()
        for n in range(videos)
    ]
    write_manifest(pa.Table.from_pylist(rows, schema=MANIFEST), path)
    return path


def dry_run(capfd, *arguments):
    """Exit code, result and what was said to a person."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["train", *map(str, arguments), "--dry-run", "--json"])
    out, err = capfd.readouterr()
    return ended.value.code, json.loads(out), err


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_config_is_planned_from_a_manifest_alone(path, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    config = load_config(path)
    if path.stem in TOYS:
        make_clip(["a small red circle"], tmp_path / config.model.clip, ScratchClip(vocabulary=600))
    manifest = write(tmp_path / "manifest.parquet", BENCHMARKS[path.stem])
    for dev, steps in zip(("held_out", "none"), STEPS[path.stem], strict=True):
        code, plan, said = dry_run(capfd, path, "--manifest", manifest, "--set", f"protocol.dev={dev}")
        assert (code, plan["problems"]) == (0, []), said
        assert plan["steps"]["total"] == steps
        assert plan["steps"]["dropped"] == plan["steps"]["pairs"] % config.train.global_batch
        assert plan["corpus"]["splits"]["test"]["trained_on"] == 0
    videos = sum(count for count, *_ in BENCHMARKS[path.stem].values())
    assert plan["disk"]["raw"] == videos * config.prepare.max_frames * config.prepare.crop**2 * 3
    assert plan["memory"]["peak"] > plan["memory"]["image_tower"]
    assert (plan["memory"]["image_tower"] == 0) == ("image_tower" in config.train.freeze)
    assert plan["parameters"]["trained"] == sum(group["parameters"] for group in plan["parameters"]["groups"])
    if path.stem not in TOYS:
        assert plan["parameters"]["parts"]["psi"] == 1_579_008
        side = 16 if "b16" in path.stem else 32
        assert plan["parameters"]["frozen"] == 3 * side * side * 768  # the patch convolution
    assert {p.name for p in tmp_path.iterdir()} <= {"manifest.parquet", config.model.clip}  # nothing is written


def test_the_published_recipe_differs_between_benchmarks_only_as_the_paper_says():
    changed = {
        name: {key: value for key, (_, value) in make_plan(load_config(ROOT / f"configs/{name}.yaml")).changed.items()}
        for name in BENCHMARKS
        if name not in TOYS
    }
    released = {"data.augment": "rand", "data.repeat_videos": True, "protocol.dev": "none"}
    longer = {"data.frames": 64, "data.words": 64, "prepare.max_frames": 64}
    video_side = {"model.corrected": "video", "model.context": "words", "train.epochs": 10}
    assert changed == {
        "msrvtt": {"runtime.name": "msrvtt"},
        "msrvtt-vit-b16": {"runtime.name": "msrvtt-vit-b16", "model.clip": "openai/clip-vit-base-patch16"},
        "msrvtt-released": {"runtime.name": "msrvtt-released", "train.optimizer": "bert_adam"} | released,
        "lsmdc": {"runtime.name": "lsmdc"},
        "msvd": {"runtime.name": "msvd"},
        "didemo": {"runtime.name": "didemo"} | longer,
        "activitynet": {"runtime.name": "activitynet"} | longer | video_side,
    }


def test_the_plan_of_shards_is_what_training_does(toy_run, toy_shards):
    config = toy_run("train.epochs=3", "train.warmup=0.3")
    plan = make_plan(config)
    assert plan.problems == []
    assert not Path(config.runtime.output).exists()
    summary = fit_local(config, quiet=True)
    assert plan.steps.total == summary.steps
    assert plan.steps.per_epoch * 3 == plan.steps.total == 27
    assert plan.steps.warmup == 9  # 0.3 of 27 steps is 8.1: steps 0 to 8 are below it
    assert plan.selected_by == summary.selected_by
    assert plan.disk.stored == sum(p.stat().st_size for p in (toy_shards / "shards").iterdir())
    model = GareModel.from_clip(config.model.clip, config.model)
    freeze(model, config.train)
    real = parameter_groups(model, config.train)
    assert [(g.name, g.tensors, g.parameters, g.peak_lr, g.weight_decay) for g in plan.parameters.groups] == [
        (g["name"], len(g["params"]), sum(p.numel() for p in g["params"]), g["peak_lr"], g["weight_decay"])
        for g in real
    ]
    total = sum(p.numel() for p in model.parameters())
    assert plan.parameters.trained + plan.parameters.frozen == sum(plan.parameters.parts.values()) == total
    assert make_plan(config).remarks == [
        f"The run {summary.directory} is finished; training it again would do nothing without --extend."
    ]


@pytest.mark.parametrize(
    "override",
    [
        "train.global_batch=64",
        "data.dev_split=val",
        "data.train_split=val",
        "runtime.shards=/nowhere",
        "train.select_by=t2v/R1",
        "data.words=40",
        "prepare.short_side=40",
        "runtime.output=s3://bucket/runs",
        "train.seed=3",
        ["train.increments=factorised", "objective.trust_region.anchor=video"],
    ],
)
def test_what_training_refuses_the_plan_says_in_the_same_words(toy_run, override):
    fit_local(toy_run("train.epochs=1", "runtime.name=other"), quiet=True)
    overrides = [override] if isinstance(override, str) else override
    config = toy_run("train.epochs=1", "runtime.name=other", *overrides)
    with pytest.raises(GareError) as refused:
        fit_local(config, quiet=True)
    assert str(refused.value) in make_plan(config).problems


def test_increments_that_do_not_factorise_are_refused(toy_run):
    plan = make_plan(toy_run("model.query=residual", "train.increments=factorised"))
    assert plan.memory is None
    assert [p for p in plan.problems if "has no factorised increments; set train.increments to dense" in p]


def test_several_problems_are_said_at_once(toy_run, tmp_path):
    config = toy_run("train.select_by=x", f"model.clip={tmp_path}", "data.dev_split=val", "runtime.shards=null")
    corpus = Corpus.of_rows("here", [("train", 2, {})] * 20, config)
    problems = make_plan(config, corpus).problems
    assert [p.split()[0] for p in problems] == ["train.select_by", "here", "Cannot"]
    assert problems[2].startswith(f"Cannot load a CLIP model from {tmp_path}: it has no config.json.")
    assert all("\n" not in p for p in problems)


def test_a_manifest_is_held_against_the_settings(toy_run, toy_clip):
    config = toy_run("prepare.crop=30", "runtime.shards=null", "data.dev_split=val")
    rows = [("train", 2, {}), ("val", 0, {})] * 20
    problems = make_plan(config, Corpus.of_rows("here", rows, config)).problems
    assert "The split 'val' of here has no captions to choose the checkpoint by." in problems
    assert "prepare keeps 30-pixel frames, but the CLIP model takes 32; prepare with" in problems[-1]


def test_a_clip_without_tokenizer_is_a_problem(toy_run, toy_clip, tmp_path):
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare" / name).write_bytes((toy_clip / name).read_bytes())
    problems = make_plan(toy_run(f"model.clip={tmp_path / 'bare'}")).problems
    assert problems == ["The model has no tokenizer, so captions cannot be read; save one with its CLIP weights."]


def test_without_a_corpus_all_but_the_steps_is_said(toy_run):
    plan = make_plan(toy_run("runtime.shards=null"))
    assert (plan.corpus, plan.steps, plan.disk) == (None, None, None)
    assert plan.memory.peak
    assert plan.parameters.trained
    assert plan.remarks == ["Neither a manifest nor shards are named, so the steps are not known."]


def test_shards_that_are_still_to_be_made_are_no_problem_beside_a_manifest(toy_run, tmp_path):
    config = toy_run(f"runtime.shards={tmp_path / 'later'}")
    plan = make_plan(config, Corpus.of_rows("here", [("train", 2, {}), ("dev", 1, {})] * 20, config))
    assert plan.problems == []
    assert plan.remarks == ["There are no shards yet; gare prepare makes them."]


def test_a_temporal_transformer_that_starts_at_random_is_said(toy_run):
    plan = make_plan(toy_run("model.temporal_layers=2"))
    assert "its blocks start at random" in plan.remarks[0]


def test_memory_is_of_one_worker(toy_run):
    four, alone = make_plan(toy_run("runtime.workers=4")), make_plan(toy_run("runtime.workers=4"), workers=1)
    assert (four.workers, four.memory.rows, alone.workers, alone.memory.rows) == (4, 1, 1, 4)


def test_the_command_says_all_of_it_to_a_person(tmp_path, toy_run, capfd):
    settings = tmp_path / "toy.yaml"
    settings.write_text(to_yaml(toy_run("train.select_by=x")))
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["train", str(settings), "--dry-run", "--local"])
    out, err = capfd.readouterr()
    assert ended.value.code == 0
    for text in (
        "train.global_batch", "trained on", "chooses the checkpoint", "9 of 4 pairs", "clip/no_decay", "psi",
        "Memory of one of 1 workers (4 pairs, dense increments)", "peak", "which cannot choose a checkpoint",
    ):  # fmt: skip
        assert text in out, text
    assert "comes on top" in err
    with pytest.raises(SystemExit) as ended:
        main(["train", str(settings), "--manifest", str(tmp_path / "m.parquet")])
    assert ended.value.code == InputError.exit_code
    assert "--manifest goes with --dry-run" in capfd.readouterr().err


def test_settings_that_make_no_config_are_an_error_as_ever(tmp_path, capfd):
    code, result, _ = dry_run(capfd, ROOT / "configs/msrvtt.yaml", "--set", "protocol.dev=never")
    assert code == ConfigError.exit_code
    assert "protocol.dev is 'never'" in result["error"]
