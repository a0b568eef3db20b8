"""The heads GARE is compared with: their published equations, and everything a head has to do elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from gare.cli import main
from gare.common.errors import ConfigError, InputError
from gare.config import Config, ModelConfig
from gare.config.heads import HEADS
from gare.config.tree import build_saved, load_config, with_overrides
from gare.data.shards import ShardSet
from gare.evaluation.encode import encode_texts, encode_videos
from gare.launch.dry_run.plan import make_plan
from gare.launch.local import fit_local
from gare.model import GareModel, load_model
from gare.retrieval.build import write_index
from gare.retrieval.model import IndexModel
from gare.retrieval.opening import open_index
from gare.scoring.factors import ScoreStats
from gare.scoring.gallery import score_all
from gare.scoring.head import PairDropout, blocked_scores, make_head
from gare.scoring.video_index import VideoIndex
from tests.reference import layer_norm
from tests.unit.model.test_head import random_case

TERMS = ("information_bottleneck", "trust_region", "direction_diversity")
NO_TERMS = [f"objective.{term}.weight=0" for term in TERMS]
OTHERS = sorted(set(HEADS) - {"gare"})


def plain_mean_pool(text, frames):
    """Mean pooling as published, of one text [D] and the valid frames [F, D] of one video."""
    pooled = torch.stack([frame / frame.norm() for frame in frames]).sum(dim=0) / len(frames)
    return (text / text.norm()) @ (pooled / pooled.norm())


def plain_xpool(text, frames, p, heads, factors=None):
    """X-Pool's similarity of one pair; ``p``: parameters by name, ``factors`` [D]: of dropout."""

    def linear(name, x):
        return p[f"{name}.weight"] @ x + p[f"{name}.bias"]

    def norm(number, x):
        return layer_norm(x, p[f"layer_norm{number}.weight"], p[f"layer_norm{number}.bias"])

    query, width, parts = linear("q_proj", norm(1, text)), len(text) // heads, []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        logits = [query[own] @ linear("k_proj", norm(1, frame))[own] / math.sqrt(width) for frame in frames]
        weights = torch.stack(logits).softmax(dim=0)
        values = [linear("v_proj", norm(1, frame))[own] for frame in frames]
        parts.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
    attended = norm(2, linear("out_proj", torch.cat(parts)))
    hidden = linear("linear_proj", attended)
    pooled = norm(3, attended + (hidden if factors is None else hidden * factors))
    return text @ pooled / (text.norm() * pooled.norm())


def drawn_head(name, dim=12, seed=0, **settings):
    """A head in float64 with random parameters."""
    head = make_head(dim, ModelConfig(head=name, **settings)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return head


def each_pair(function, case):
    """``function(i, j, text, valid frames)`` of every pair, [B, V]."""
    text, frames, mask = case[:3]
    rows = [[function(i, j, t, frames[j][mask[j]]) for j in range(len(frames))] for i, t in enumerate(text)]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("seed", range(3))
def test_mean_pooling_equals_the_published_equations(seed):
    case = random_case(seed, dim=12)
    expected = each_pair(lambda _i, _j, text, frames: plain_mean_pool(text, frames), case)
    assert torch.allclose(drawn_head("mean_pool")(*case).scores, expected, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 3, 12])
def test_xpool_equals_the_published_equations_with_dropout_and_without(heads):
    case = random_case(heads, dim=12)
    head = drawn_head("xpool", attention_heads=heads)
    parameters = dict(head.named_parameters())
    for dropout in (None, PairDropout(0.4, 1, 2)):
        factors = None if dropout is None else dropout.mask(torch.empty(3, 4, 12, dtype=torch.float64))

        def score(i, j, text, frames, factors=factors):
            return plain_xpool(text, frames, parameters, heads, None if factors is None else factors[i, j])

        assert torch.allclose(head(*case, dropout).scores, each_pair(score, case), atol=1e-10)
    head(*case).scores.square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for name, p in head.named_parameters() if name != "k_proj.bias")


def test_xpool_starts_as_the_identity_as_released_and_its_heads_divide_the_width():
    head = make_head(12, ModelConfig(head="xpool"))
    assert all(torch.equal(m.weight, torch.eye(12)) for m in head.modules() if isinstance(m, torch.nn.Linear))
    with pytest.raises(ConfigError, match=r"model.attention_heads is 5, which does not divide .* width 12"):
        make_head(12, ModelConfig(head="xpool", attention_heads=5))


@pytest.mark.parametrize("name", OTHERS)
def test_padding_blocks_and_precision_change_nothing(name, monkeypatch):
    case, head = random_case(4, texts=6, videos=5, dim=12), drawn_head(name)
    whole = head(*case).scores
    junk = case[1].masked_fill(~case[2][..., None], float("inf"))
    assert torch.equal(head(case[0], junk, case[2]).scores, whole)
    monkeypatch.setattr("gare.scoring.head.BLOCK_NUMBERS", 2 * 5 * 12)
    made = blocked_scores(head, *case, PairDropout(0.3, 1, 2))
    assert made.increments is None
    assert torch.allclose(made.scores, head(*case, PairDropout(0.3, 1, 2)).scores, atol=1e-12)
    stats = ScoreStats()
    assert torch.allclose(score_all(head, *case[:3], stats=stats), whole, atol=1e-12)
    assert (stats.pairs, stats.dense_pairs) == (30, 30 if head.factors() is None else 0)
    single = head.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = single(case[0].float(), case[1].float(), case[2]).scores
    assert scores.dtype == torch.float32
    assert torch.allclose(scores.double(), whole, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("storage", [None, torch.float16])
def test_a_saved_index_scores_as_the_head(name, storage, tmp_path):
    case, head = random_case(5, videos=7, dim=12), drawn_head(name)
    model, path = SimpleNamespace(head=head), tmp_path / "index.safetensors"
    built = VideoIndex.build(model, case[1], case[2], storage=storage)
    built.save(path)
    index, tolerance = VideoIndex.load(model, path), 1e-12 if storage is None else 5e-3
    expected = head(*case).scores
    assert len(index) == 7
    assert torch.allclose(index.score(case[0]), expected, atol=tolerance)
    picked = torch.tensor([[6, 0], [1, 2], [3, 3]])
    assert torch.allclose(index.score_candidates(case[0], picked), expected.gather(1, picked), atol=tolerance)
    if name == "mean_pool":
        assert set(load_file(path)) == {"video"}
    for other in {*HEADS} - {name}:
        with pytest.raises(ConfigError, match="build it again"):
            VideoIndex.load(SimpleNamespace(head=make_head(12, ModelConfig(head=other))), path)


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in sorted(HEADS) for damage in ("missing", "narrow", "integers")]
    + [("gare", "long"), ("xpool", "long")],
)
def test_factors_of_another_shape_are_refused(name, damage, tmp_path):
    case, model = random_case(6, dim=12), SimpleNamespace(head=drawn_head(name))
    VideoIndex.build(model, case[1], case[2]).save(tmp_path / "index")
    tensors = load_file(tmp_path / "index")
    first = max(tensors, key=lambda key: tensors[key].numel())
    changed = {
        "narrow": tensors[first][..., 1:],
        "long": torch.cat([tensors[first], tensors[first]]),
        "integers": tensors[first].long(),
    }
    tensors.pop(first)
    if damage != "missing":
        tensors[first] = changed[damage].contiguous()
    settings = {k: getattr(model.head.config, k) for k in ("increment", "context", "query", "gap_sign", "video_base")}
    others = {"mean_pool": {"head": name}, "xpool": {"head": name, "attention_heads": 1}}
    metadata = {"settings": json.dumps(others.get(name, settings), sort_keys=True)}
    save_file(tensors, tmp_path / "damaged", metadata=metadata)
    with pytest.raises(InputError, match="does not hold the factors of this model's videos"):
        VideoIndex.load(model, tmp_path / "damaged")


@pytest.mark.parametrize("name", OTHERS)
def test_a_run_trains_evaluates_and_is_indexed(name, toy_run, toy_clip, tmp_path):
    more = (f"model.head={name}", "model.temporal_layers=0", "data.captions=one_per_video", *NO_TERMS)
    summary = fit_local(toy_run("train.epochs=14", "runtime.diagnose_every=2", *more), quiet=True)
    rows = [json.loads(line) for line in (Path(summary.directory) / "history.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert not any("diagnostics" in key or key == "warning" for row in rows for key in row)
    assert summary.best_metrics["dev/t2v/R@1"] >= 40  # 20 by chance
    model = load_model(summary.best)
    assert model.config.head == name
    config, dataset = toy_run(*more), ShardSet(Path(toy_run().runtime.shards))
    split, opened = dataset.split("test"), IndexModel.of_checkpoint(Path(summary.best), model, config)
    write_index(tmp_path / "index", opened, dataset, "test", storage="float32")
    texts = encode_texts(model, model.tokenizer, ["a red square left"], config.data.words, 1)
    videos = encode_videos(model, split, config.data, 4)
    exact = model.score(texts.text, videos.frames, videos.frame_mask).scores[0]
    hits = open_index(tmp_path / "index").search("a red square left", 3)
    assert [hit.score for hit in hits] == pytest.approx(exact.topk(3).values.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_pieces_have_the_losses_of_a_whole_batch(name, toy_run):
    def losses(*more):
        summary = fit_local(
            toy_run(f"model.head={name}", *NO_TERMS, "train.epochs=1", *more, output=str(more)), quiet=True
        )
        rows = [json.loads(line) for line in (Path(summary.directory) / "history.jsonl").read_text().splitlines()]
        return [row["train/loss"] for row in rows if "train/loss" in row]

    assert losses("train.chunk=2") == pytest.approx(losses(), rel=1e-4)


@pytest.mark.parametrize("name", OTHERS)
def test_without_temporal_blocks_frames_are_as_clip_embeds_them(name, toy_clip):
    model = GareModel.from_clip(toy_clip, ModelConfig(head=name, temporal_layers=0)).eval()
    pixels, mask = torch.randn(2, 3, 3, 32, 32), torch.tensor([[True, True, True], [True, False, False]])
    with torch.no_grad():
        frames = model.encode_frames(pixels, mask)
        assert torch.equal(frames[mask], model.embed_images(pixels[mask]))
    assert not frames[~mask].any()
    assert not any(key.startswith("temporal") for key in model.state_dict())
    assert "temporal.positions" in GareModel.from_clip(toy_clip, ModelConfig(temporal_layers=0)).state_dict()


@pytest.mark.parametrize("name", OTHERS)
def test_a_dry_run_counts_the_head_and_says_what_has_nothing_to_do(name, toy_run):
    plan = make_plan(toy_run(f"model.head={name}", "runtime.diagnose_every=5", *NO_TERMS))
    assert plan.problems == []
    assert plan.memory.pairs > 0
    expected = sum(p.numel() for p in make_head(64, ModelConfig(head=name)).parameters())
    assert plan.parameters.parts.get("pair head", 0) == expected
    assert f"model.head {name} makes no increments, so runtime.diagnose_every has nothing to measure." in plan.remarks


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.head=x_pool"], "model.head is 'x_pool'"),
        (["model.head=xpool"], "model.head xpool makes no increments for a regulariser to act on; add --set objective"),
        (["model.head=mean_pool", *NO_TERMS[1:]], r"act on; add --set objective.information_bottleneck.weight=0\.$"),
        (["model.head=xpool", *NO_TERMS, "train.increments=factorised"], "leave train.increments at dense"),
        (["model.head=xpool", *NO_TERMS, "model.context=words"], "model.context has no meaning with model.head: xpool"),
        (["model.head=mean_pool", *NO_TERMS, "model.dropout=0"], "model.dropout has no meaning with model.head: mean"),
        (["model.attention_heads=2"], "model.attention_heads has no meaning with model.head: gare"),
    ],
)
def test_settings_a_head_has_no_use_for_are_refused_in_one_sentence(overrides, says):
    with pytest.raises(ConfigError, match=says):
        load_config(None, overrides)


def test_a_head_without_factorised_training_says_so():
    with pytest.raises(ConfigError, match=r"model.head xpool has no factorised increments; set train.increments to"):
        drawn_head("xpool").factorised(*random_case(1, dim=12))


def test_earlier_settings_keep_their_names_and_are_gare():
    assert Config().digest() == "6b1deba9686233f2"
    tree = Config().model_dump(mode="json")
    del tree["model"]["head"], tree["model"]["attention_heads"]
    assert build_saved(tree) == Config()
    other = with_overrides(
        Config(), dict.fromkeys((f"objective.{t}.weight" for t in TERMS), 0.0) | {"model.head": "xpool"}
    )
    assert other.digest() != Config().digest()


def test_diagnose_says_that_there_are_no_increments(toy_run, tmp_path, capfd):
    summary = fit_local(toy_run("model.head=mean_pool", "train.epochs=1", *NO_TERMS), quiet=True)
    words = ("diagnose", summary.directory, "--shards", toy_run().runtime.shards, "--out", tmp_path / "d.png")
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code != 0
    assert "model.head mean_pool makes no increments, so there is nothing to measure of" in " ".join(
        capfd.readouterr().err.split()
    )
    assert not (tmp_path / "d.png").exists()
