"""Embeddings of frozen towers: the same run with and without them, and only where they are the run's own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gare.common.errors import InputError
from gare.config.tree import with_overrides
from gare.data.vectors import read_vectors, write_vectors
from gare.launch.local import fit_local
from gare.model.gare import GareModel
from gare.objective import SINGLE
from gare.runs.inputs import open_data
from gare.training.frozen import with_embeddings
from gare.training.loop import build_model
from tests import toy
from tests.ranks import on_ranks

CPU = torch.device("cpu")
FROZEN = "train.freeze=[image_tower, text_tower]"
ONCE = "train.epochs=1"


@pytest.fixture(scope="module")
def run(toy_clip, tmp_path_factory):
    """Train in a folder and return the losses and the dev metrics."""
    folder = tmp_path_factory.mktemp("frozen")
    shards = toy.make_shards(folder / "shards", {"train": 9, "dev": 4}, stored=5, max_frames=6)

    def config(output, *more):
        return toy.toy_config(toy_clip, shards, folder / output, FROZEN, "prepare.max_frames=6", *more)

    def run(output, name, *more):
        summary = fit_local(config(output, f"runtime.name={name}", *more), quiet=True)
        rows = [json.loads(line) for line in (folder / output / name / "history.jsonl").read_text().splitlines()]
        return [row["train/loss"] for row in rows if "train/loss" in row], summary.best_metrics

    run.config, run.folder = config, folder
    return run


def files(run, output):
    return sorted((run.folder / output).glob("embeddings/*/*.arrow"))


@pytest.mark.parametrize(
    "settings",
    [
        ("data.sampling=linspace",),
        ("data.sampling=random_segment", "data.caption_noise=0.5"),
        ("model.context=words", "model.corrected=video"),
        ("train.precision=bf16", "train.increments=factorised"),
        ("train.freeze=[image_tower]",),
        ("train.freeze=[text_tower]",),
    ],
    ids=" ".join,
)
def test_losses_and_metrics_are_bit_for_bit_those_of_towers_that_encode_in_every_step(run, settings):
    output = f"same {settings}"
    assert run(output, "once", *settings) == run(output, "always", *settings, "runtime.embeddings=null")
    frozen = run.config(output, *settings).train.freeze
    assert len(files(run, output)) == 2 * len(frozen)


def test_pieces_of_a_batch_give_the_same_losses_up_to_rounding(run):
    losses, _ = run("pieces", "once", "train.chunk=3")
    plain, _ = run("pieces", "always", "train.chunk=3", "runtime.embeddings=null")
    assert losses == pytest.approx(plain, rel=1e-5)


def test_a_second_run_reads_the_embeddings_and_encodes_nothing(run, monkeypatch):
    first = run("shared", "first", ONCE)

    def encoded(*given):
        raise AssertionError("a frozen tower encoded again")

    monkeypatch.setattr(GareModel, "embed_images", encoded)
    assert run("shared", "second", ONCE)[0] == first[0]
    run("shared", "other head", ONCE, "model.increment=none")


def flipped(path):
    content = bytearray(path.read_bytes())
    # The last vector: nothing but the digest can notice.
    at = content.rindex(np.float32(read_last(path)).tobytes())
    content[at] ^= 1
    path.write_bytes(content)


def read_last(path):
    import pyarrow as pa

    table = pa.ipc.open_file(str(path)).read_all()
    return table["vectors"][-1].as_py()[-1][-1]


def cut(path):
    path.write_bytes(path.read_bytes()[:-300])


def swapped(path):
    other = next(file for file in path.parent.glob("*.arrow") if file != path)
    path.write_bytes(other.read_bytes())


def of_another_recipe(path):
    other = next(file for file in path.parent.parent.glob("*/*.arrow") if file.parent != path.parent)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (flipped, "its bytes are not those that were written"),
        (cut, ""),
        (swapped, "those of other videos or captions"),
        (of_another_recipe, "made in another way"),
        (lambda path: path.write_text("hello"), ""),
    ],
)
def test_embeddings_that_are_damaged_or_of_something_else_are_made_again_with_a_warning(run, damage, why, capfd):
    output = f"damaged {getattr(damage, '__name__', '')}"
    first = run(output, "first", ONCE)
    broken = files(run, output)[0]
    damage(broken)
    capfd.readouterr()
    assert run(output, "again", ONCE) == first
    said = capfd.readouterr().err
    assert f"The embeddings in {broken} cannot be used" in said.replace("\n", " ")
    assert why in said.replace("\n", " ")
    assert run(output, "third", ONCE) == first
    assert "cannot be used" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "settings", [("train.freeze=[patch_embedding]",), ("runtime.embeddings=null",)], ids=lambda s: s[0]
)
def test_nothing_is_kept_of_a_tower_that_learns_or_if_the_settings_say_so(run, settings):
    run(f"nothing {settings}", "run", ONCE, *settings)
    assert not (run.folder / f"nothing {settings}" / "embeddings").exists()


def test_frames_that_differ_between_epochs_are_encoded_in_every_step(run):
    for more in ("data.augment=rand", "data.crop=random"):
        config = run.config("draws", more)
        data = open_data(with_overrides(config, {"data.augment": "none"}))
        model, tokenizer, _ = build_model(with_overrides(config, {"data.crop": "centre"}), data.shards, CPU)
        embedded = with_embeddings(data, model, tokenizer, config, SINGLE).train.embedded
        assert embedded.frames is None
        assert embedded.texts is not None


@pytest.mark.parametrize("other", ["data.frames=2", "train.precision=bf16", "data.sampling=random_segment"])
def test_other_settings_of_what_a_frame_becomes_never_share_embeddings(run, other):
    output = f"other {other}"
    run(output, "one", ONCE)
    before = files(run, output)
    run(output, "two", ONCE, other)
    assert set(before) < set(files(run, output))


def test_the_same_weights_with_another_activation_never_share_embeddings(run):
    config = run.config("activation")
    data = open_data(config)
    for activation in ("quick_gelu", "gelu"):
        model, tokenizer, _ = build_model(config, data.shards, CPU)
        model.clip.config.vision_config.hidden_act = activation
        with_embeddings(data, model, tokenizer, config, SINGLE)
    assert len({path.parent for path in files(run, "activation")}) == 3  # two of frames, one of texts


def test_a_tower_sees_no_more_frames_at_once_than_in_evaluation(run, monkeypatch):
    seen, embed = [], GareModel.embed_images
    monkeypatch.setattr(GareModel, "embed_images", lambda model, x: (seen.append(len(x)), embed(model, x))[1])
    settings = ("runtime.eval_batch=1", "data.frames=2", "data.sampling=random_segment")
    alone = made_by_ranks(SINGLE, run.config("few", *settings))
    assert max(seen) == 2
    whole = made_by_ranks(SINGLE, run.config("many", *settings[1:]))
    assert max(seen) > 2
    assert np.allclose(np.concatenate(alone), np.concatenate(whole), atol=1e-5)


def made_by_ranks(world, config):
    data = open_data(config)
    model, tokenizer, _ = build_model(config, data.shards, CPU)
    made = with_embeddings(data, model, tokenizer, config, world).train
    assert made.embedded is not None
    return [made.embedded.frames[video.video_id].tolist() for video in made.videos]


def test_ranks_share_the_work_and_read_the_same(run):
    alone = made_by_ranks(SINGLE, run.config("alone"))
    assert on_ranks(2, made_by_ranks, run.config("ranks")) == [alone, alone]
    assert len(files(run, "ranks")) == len(files(run, "alone")) == 4


def test_a_full_disk_is_an_error_in_a_sentence(run, monkeypatch):
    (run.folder / "full").mkdir()
    (run.folder / "full" / "embeddings").write_text("a file in the way")
    with pytest.raises(InputError, match="Cannot write"):
        run("full", "run", ONCE)


def test_vectors_read_back_as_they_were_written(tmp_path):
    rows = {"a": np.ones((2, 3), np.float32), "b": np.full((1, 3), 0.1, np.float32)}
    write_vectors(tmp_path / "v.arrow", "made so", rows)
    found = read_vectors(tmp_path / "v.arrow", "made so", {"a": 2, "b": None}, whole=True)
    assert found.counts() == {"a": 2, "b": 1}
    assert np.array_equal(found.values, np.concatenate(list(rows.values())))
    with pytest.raises(ValueError, match="another number"):
        read_vectors(tmp_path / "v.arrow", "made so", {"a": 1, "b": None}, whole=True)
    with pytest.raises(FileNotFoundError):
        read_vectors(tmp_path / "w.arrow", "made so", {"a": 2}, whole=True)
