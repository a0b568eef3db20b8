"""An evaluation: raw and post-processed rankings, their first answers, the files, CLIP without training."""

from __future__ import annotations

import json
import tracemalloc
from itertools import chain

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from gare.common.errors import InputError, RunError
from gare.config import ModelConfig
from gare.data.shards import ShardSet
from gare.evaluation import answers as answers_module
from gare.evaluation import measure as measure_module
from gare.evaluation import scorer as scores_module
from gare.evaluation.answers import Best
from gare.evaluation.evaluate import evaluate
from gare.evaluation.measure import SEED, measure
from gare.evaluation.metrics.bootstrap import intervals
from gare.evaluation.metrics.ranking import METRIC_NAMES
from gare.evaluation.postprocess import draw_bank
from gare.evaluation.results import METRICS_FILE, SCORES_FILE, write_results
from gare.evaluation.scorer import GareScorer
from gare.model import GareModel
from gare.model.pixels import OPENAI_PIXELS
from tests import toy
from tests.made_up import HashScorer, TableScorer, split_of
from tests.reference import dual_softmax, querybank, rankings

CAPTIONS = [[f"caption {n} of video {v}" for n in range(v % 4)] for v in range(13)]
TRAIN = split_of([[f"train caption {n} of {v}" for n in range(2)] for v in range(9)], name="train")
IDENTITY = {"checkpoint": "x", "dataset_digest": "d"}


def in_tiles(monkeypatch, side):
    """Make all scores in tiles, the last ones short, and anew whenever they are asked for."""
    monkeypatch.setattr(answers_module, "BLOCK", 20)
    monkeypatch.setattr(scores_module, "KEPT", 0)
    for module in (scores_module, measure_module):
        monkeypatch.setattr(module, "SIDE", side)


@pytest.mark.parametrize("side", [2, 5, 2040])
def test_raw_and_post_processed_rankings_are_those_of_whole_matrices(monkeypatch, side):
    in_tiles(monkeypatch, side)
    split, scorer = split_of(CAPTIONS), HashScorer()
    bank = draw_bank(TRAIN, split, 5, seed=3)
    found = measure(scorer, split, bank=bank, resamples=0)
    scores, owner = found.evaluation.scores.whole(), found.evaluation.owner
    texts, videos = scorer.encode_texts(found.evaluation.texts), scorer.encode_videos(split, range(13))
    assert (scores == scorer.score(texts, videos).numpy()).all()
    by_texts = scorer.score(scorer.encode_texts(bank.texts), videos).numpy()
    by_videos = scorer.score(texts, scorer.encode_videos(TRAIN, bank.videos)).numpy()
    matrices = dict(zip(("t2v_dsl", "v2t_dsl"), dual_softmax(scores, 10.0), strict=True))
    matrices |= {"t2v_qbnorm": querybank(scores, by_texts, 10.0)}
    matrices |= {"v2t_qbnorm": querybank(scores.T, by_videos.T, 10.0).T}
    assert list(found.answers) == ["t2v", "v2t", "v2t_grouped", *matrices]
    for name, got in found.answers.items():
        matrix = matrices.get(name, scores)
        direction = name if name == "v2t_grouped" else name[:3]
        want = rankings(matrix, owner)[direction]
        assert got.ranking.name == name
        assert (got.ranking.ranks == want.ranks).all()
        assert (got.ranking.video == want.video).all()
        assert got.ranking.gallery == want.gallery
        if direction == "t2v":
            assert (got.items == np.argsort(-matrix, axis=1, kind="stable")[:, :10]).all()
            assert got.scores == pytest.approx(np.take_along_axis(matrix, got.items, axis=1))
        if direction == "v2t":
            assert (got.items == np.argsort(-matrix.T[want.video], axis=1, kind="stable")[:, :10]).all()
        if direction == "v2t_grouped":
            for video, row in zip(want.video, got.items, strict=True):
                assert row.tolist() == best_of_each_group(matrix[:, video], owner)[:10]


def best_of_each_group(scores, owner):
    order = np.argsort(-scores, kind="stable")
    return [text for place, text in enumerate(order) if owner[text] not in owner[order[:place]]]


@settings(max_examples=100)
@given(
    st.integers(0, 2**20),
    st.integers(1, 40),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 15),
    st.integers(1, 6),
)
def test_first_answers_are_those_of_a_stable_sort(seed, texts, videos, count, rows, columns):
    random = np.random.default_rng(seed)
    scores, owner = random.integers(0, 5, (texts, videos)) / 4, np.sort(random.integers(0, videos, texts))
    if random.random() < 0.3:
        scores[scores == 0] = -np.inf
    by_text, by_video = Best(texts, videos, count), Best(videos, texts, count)
    grouped = Best(videos, texts, count, group=owner)
    for top in range(0, texts, rows):
        for left in range(0, videos, columns):
            t, v = slice(top, min(top + rows, texts)), slice(left, min(left + columns, videos))
            by_text.add(t, v, scores[t, v])
            by_video.add(v, t, scores[t, v].T)
            grouped.add(v, t, scores[t, v].T)
    assert (by_text.items == np.argsort(-scores, axis=1, kind="stable")[:, :count]).all()
    assert (by_text.scores == np.take_along_axis(scores, by_text.items, axis=1)).all()
    assert (by_video.items == np.argsort(-scores.T, axis=1, kind="stable")[:, :count]).all()
    assert grouped.items.tolist() == [best_of_each_group(scores[:, v], owner)[:count] for v in range(videos)]


def test_training_sees_the_raw_metrics_alone_and_the_command_the_same_numbers(toy_clip, toy_shards, tmp_path):
    config = toy.toy_config(toy_clip, toy_shards, tmp_path)
    model = GareModel.from_clip(toy_clip, config.model)
    split = ShardSet(toy_shards).split("test")
    model.train()
    metrics = evaluate(model, model.tokenizer, split, config).metrics
    assert not model.training
    assert set(metrics) == set(METRIC_NAMES)
    found = measure(GareScorer(model, model.tokenizer, config), split, resamples=50)
    assert {name: value for name, value in found.metrics().items() if name in metrics} == metrics
    assert found.scale == pytest.approx(float(model.clip.logit_scale.detach().exp()))


def test_every_metric_has_the_interval_of_its_ranking_and_none_without_resamples():
    found = measure(HashScorer(), split_of(CAPTIONS), resamples=40)
    assert found.intervals.keys() == found.metrics().keys()
    for answers in found.answers.values():
        want = intervals(answers.ranking, resamples=40, seed=SEED)
        assert {name: found.intervals[name] for name in want} == want
    assert measure(HashScorer(), split_of(CAPTIONS), resamples=0).intervals == {}


def test_ties_go_the_way_that_was_asked_for():
    table, split = [[1.0, 1.0, 1.0, 0.0]], split_of([["a"], [], [], []])
    ranks = {
        ties: measure(TableScorer(table), split, ties=ties, resamples=0).answers["t2v"].ranking.ranks.tolist()
        for ties in ("pessimistic", "optimistic", "mean")
    }
    assert ranks == {"pessimistic": [3], "optimistic": [1], "mean": [2.0]}


def test_a_split_without_captions_and_scores_that_are_no_numbers_are_refused():
    with pytest.raises(InputError, match="'test' of made-up has no captions to query with"):
        measure(HashScorer(), split_of([[], []]))
    with pytest.raises(RunError, match="NaN"):
        measure(TableScorer([[float("nan"), 0.0]]), split_of([["a"], []]))


def test_one_query_is_enough():
    found = measure(HashScorer(), split_of([["a"]]), resamples=10)
    assert found.metrics()["t2v/R@1"] == found.metrics()["v2t_dsl/MnR"] * 100 == 100
    assert found.sizes()["t2v/queries"] == found.sizes()["v2t/gallery"] == 1


def test_the_bank_is_drawn_from_train_alone_by_its_seed():
    captions = {caption for video in TRAIN.videos for caption in video.captions}
    bank = draw_bank(TRAIN, split_of(CAPTIONS), 4, seed=0)
    assert len(set(bank.texts)) == len(set(bank.videos)) == 4
    assert set(bank.texts) < captions
    assert bank.split is TRAIN
    assert draw_bank(TRAIN, split_of(CAPTIONS), 4, seed=0) == bank
    assert draw_bank(TRAIN, split_of(CAPTIONS), 4, seed=1) != bank
    whole = draw_bank(TRAIN, split_of(CAPTIONS), 1000, seed=0)
    assert set(whole.texts) == captions
    assert whole.videos == list(range(9))
    with pytest.raises(InputError, match="'train', the split that is evaluated"):
        draw_bank(TRAIN, TRAIN, 4, seed=0)
    with pytest.raises(InputError, match="no captions for a query bank"):
        draw_bank(split_of([[]], name="train"), split_of(CAPTIONS), 4, seed=0)


@pytest.mark.parametrize("side", [3, 2040])
def test_the_ranks_in_the_table_are_those_of_the_saved_scores(tmp_path, monkeypatch, side):
    in_tiles(monkeypatch, side)
    split = split_of(CAPTIONS)
    found = measure(HashScorer(), split, resamples=20, bank=draw_bank(TRAIN, split, 3, seed=0))
    written = write_results(tmp_path, found, split, IDENTITY, scores=True)
    assert json.loads((tmp_path / METRICS_FILE).read_text()) == written
    with safe_open(tmp_path / SCORES_FILE, framework="np") as file:
        scores, owner = file.get_tensor("scores"), file.get_tensor("owner")
        said = {key: json.loads(value) for key, value in file.metadata().items()}
    assert said == {"texts": list(chain(*CAPTIONS)), "video_ids": [f"v{n}" for n in range(13)], "identity": IDENTITY}
    rows = pq.read_table(tmp_path / "ranks.parquet").to_pylist()
    for name, ranking in rankings(scores, owner).items():
        mine = [row for row in rows if row["ranking"] == name]
        assert [row["rank"] for row in mine] == ranking.ranks.tolist()
        assert [row["video_id"] for row in mine] == [said["video_ids"][v] for v in ranking.video]
    for n, row in enumerate(row for row in rows if row["ranking"] == "t2v"):
        assert row["caption"] == said["texts"][n]
        assert [said["video_ids"].index(v) for v in row["top"]] == np.argsort(-scores[n], kind="stable")[:10].tolist()


def test_metrics_json_says_what_was_measured_and_how(tmp_path):
    split = split_of(CAPTIONS)
    found = measure(HashScorer(), split, ties="mean", resamples=20, bank=draw_bank(TRAIN, split, 3, seed=7))
    values = write_results(tmp_path, found, split, IDENTITY, scores=False)
    assert values["t2v/queries"] == 18
    assert values["t2v/gallery"] == values["t2v_dsl/gallery"] == 13
    assert values["v2t_grouped/gallery"] == 9
    assert values["ties"] == "mean"
    assert values["dataset_digest"] == "d"
    assert values["bootstrap"] == {"level": 0.95, "resamples": 20, "seed": SEED, "unit": "video"}
    assert values["postprocessing"]["dsl"]["scale"] == 10.0
    qbnorm = {"name": "QB-Norm", "beta": 10.0, "split": "train", "captions": 3, "videos": 3, "seed": 7}
    assert values["postprocessing"]["qbnorm"] == qbnorm
    for name, (low, high) in values["intervals"].items():
        assert low <= high
        assert name in values


def plain_zero_shot(clip_folder, split, frames, words):
    """Cosines by transformers' CLIPModel, a video and a text at a time."""
    from transformers import CLIPModel, CLIPTokenizer

    clip, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), CLIPTokenizer.from_pretrained(clip_folder)
    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_PIXELS.mean, OPENAI_PIXELS.std))

    def unit(x):
        return x / x.norm(dim=-1, keepdim=True)

    videos, texts = [], []
    for number, video in enumerate(split.videos):
        pixels = torch.stack(
            [
                (torch.from_numpy(frame.copy()).permute(2, 0, 1) / 255 - mean) / std
                for frame in split.frames(number, frames)
            ]
        )
        pooled = clip.vision_model(pixel_values=pixels).pooler_output
        videos.append(unit(unit(clip.visual_projection(pooled)).mean(dim=0)))
        for caption in video.captions:
            ids = tokenizer(caption, max_length=words, truncation=True, return_tensors="pt").input_ids
            texts.append(unit(clip.text_projection(clip.text_model(input_ids=ids).pooler_output)[0]))
    return torch.stack(texts) @ torch.stack(videos).T


@pytest.mark.parametrize("batch", [1, 4])
def test_zero_shot_scores_are_those_of_plain_clip_frame_by_frame(toy_clip, toy_shards, tmp_path, batch):
    config = toy.toy_config(toy_clip, toy_shards, tmp_path, f"runtime.eval_batch={batch}")
    model = GareModel.from_clip(toy_clip, ModelConfig(head="mean_pool", temporal_layers=0)).eval()
    split = ShardSet(toy_shards).split("train")
    assert {len(split.timestamps(v)) for v in range(len(split))} == {1, 2, 3}
    found = measure(GareScorer(model, model.tokenizer, config), split, resamples=0)
    with torch.no_grad():
        want = plain_zero_shot(toy_clip, split, config.data.frames, config.data.words)
    assert found.evaluation.scores.whole() == pytest.approx(want.numpy(), abs=1e-5)
    assert found.evaluation.scores.whole().std() > 0.01
    assert found.scale == pytest.approx(float(model.clip.logit_scale.detach().exp()))


def test_zero_shot_of_the_middle_frame_is_that_of_clips_of_one_frame(toy_clip, toy_shards, tmp_path):
    config = toy.toy_config(toy_clip, toy_shards, tmp_path)
    model = GareModel.from_clip(toy_clip, ModelConfig(head="mean_pool", temporal_layers=0)).eval()
    split = ShardSet(toy_shards).split("train")

    class Middle:
        videos = split.videos

        def frames(self, number, at_most):
            clip = split.frames(number, at_most)
            return clip[len(clip) // 2][None]

    scorer = GareScorer(model, model.tokenizer, config, "middle")
    found = measure(scorer, split, resamples=0).evaluation.scores.whole()
    with torch.no_grad():
        assert found == pytest.approx(plain_zero_shot(toy_clip, Middle(), 3, config.data.words).numpy(), abs=1e-5)


def test_memory_of_a_whole_evaluation_does_not_grow_with_texts_x_videos(monkeypatch):
    in_tiles(monkeypatch, 256)
    monkeypatch.setattr(answers_module, "BLOCK", 2**16)
    size = 3000
    rows = np.random.default_rng(0).standard_normal((size, 8), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    class Rows:
        scale = 100.0

        def encode_texts(self, texts):
            return rows[: len(texts)]

        def encode_videos(self, _, videos):
            return rows[: len(videos)]

        def score(self, texts, videos):
            return torch.from_numpy(texts @ videos.T)  # numpy's memory is the one that is traced

    split = split_of([[f"{n}"] for n in range(size)], frames=0)
    bank = draw_bank(split_of([[f"{n}"] for n in range(50)], name="train", frames=0), split, 50, seed=0)
    tracemalloc.start()
    found = measure(Rows(), split, bank=bank, resamples=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "v2t_qbnorm" in found.answers
    assert peak < 4 * size * size / 3  # a third of the scores in float32
