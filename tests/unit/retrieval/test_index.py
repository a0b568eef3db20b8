"""The saved index: what gare index writes and gare search reads."""

from __future__ import annotations

import json

import pytest
import torch

from gare.common.errors import ConfigError, InputError
from gare.config.tree import load_config
from gare.data.shards import ShardSet
from gare.evaluation.encode import encode_texts, encode_videos
from gare.model import GareModel
from gare.model.checkpoint import save_model
from gare.retrieval.index import INDEX_FILE, VECTORS_FILE, open_index, write_index
from tests import toy

QUERY = "a red square left"


def make_checkpoint(folder, toy_clip, toy_shards, *overrides, seed=0):
    """A checkpoint of an untrained model, and its settings."""
    config = toy.toy_config(toy_clip, toy_shards, folder, "model.max_frames=3", *overrides)
    torch.manual_seed(seed)
    model = GareModel.from_clip(toy_clip, config.model).eval()
    folder.mkdir(exist_ok=True)
    save_model(model, config, folder)
    return model, config


@pytest.fixture
def made(tmp_path, toy_clip, toy_shards):
    def make(*overrides, seed=0):
        checkpoint, index = tmp_path / "checkpoint", tmp_path / "index"
        model, config = make_checkpoint(checkpoint, toy_clip, toy_shards, *overrides, seed=seed)
        split = ShardSet(toy_shards).split("train")
        assert len(write_index(index, checkpoint, model, split, config, "digest")) == 18
        return index, model, config, split

    return make


@pytest.mark.parametrize("context", ["frames", "words"])
def test_search_gives_the_models_own_scores(made, context):
    folder, model, config, split = made(f"model.context={context}")
    texts = encode_texts(model, model.tokenizer, [QUERY], config.data.words, 1)
    videos = encode_videos(model, split, config.data, 4)
    scored = (
        model.score(texts.text, videos.frames, videos.frame_mask, words=texts.words, word_mask=texts.word_mask)
        .scores[0]
        .detach()
    )
    hits = open_index(folder).search(QUERY, 4)
    best = scored.topk(4)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert [hit.score for hit in hits] == pytest.approx(best.values.tolist(), abs=1e-5)
    ids = [video.video_id for video in split.videos]
    for hit in hits:
        assert hit.score == pytest.approx(float(scored[ids.index(hit.video_id)]), abs=1e-5)
        assert hit.uri == f"/videos/{hit.video_id}.mp4"


@pytest.mark.parametrize("context", ["frames", "words"])
def test_a_first_stage_over_everything_changes_nothing_and_a_short_one_keeps_scores_exact(made, context):
    opened = open_index(made(f"model.context={context}")[0])
    exact = opened.search(QUERY, 18)
    assert [(h.video_id, pytest.approx(h.score, abs=1e-6)) for h in opened.search(QUERY, 18, first_stage=18)] == [
        (h.video_id, h.score) for h in exact
    ]
    scores = {h.video_id: h.score for h in exact}
    some = opened.search(QUERY, 2, first_stage=5)
    assert len(some) == 2
    assert all(h.score == pytest.approx(scores[h.video_id], abs=1e-6) for h in some)
    assert len(opened.search(QUERY, 5, first_stage=1)) == 5


def test_an_empty_query_is_refused(made):
    with pytest.raises(InputError, match="empty"):
        open_index(made()[0]).search("  ", 3)


def test_an_index_of_an_older_version_is_refused(made):
    folder = made()[0]
    values = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    (folder / INDEX_FILE).write_text(json.dumps(values | {"version": 1}), encoding="utf-8")
    with pytest.raises(InputError, match="version 1"):
        open_index(folder)


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_damaged_factors_are_an_error_that_names_the_file(made, damage):
    folder = made()[0]
    path = folder / VECTORS_FILE
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=VECTORS_FILE):
        open_index(folder)


def test_a_folder_that_is_no_index_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not an index"):
        open_index(tmp_path)


def test_other_weights_are_refused(made, tmp_path, toy_clip, toy_shards):
    folder = made()[0]
    make_checkpoint(tmp_path / "other", toy_clip, toy_shards, seed=1)
    with pytest.raises(ConfigError, match="other weights"):
        open_index(folder, tmp_path / "other")
    with pytest.raises(InputError, match="--checkpoint"):
        open_index(folder, tmp_path / "nowhere")
    assert load_config(tmp_path / "other" / "config.yaml").model.max_frames == 3
