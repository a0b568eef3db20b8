"""The assembled model: loading, saving, masks."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from gare.api import checkpoint
from gare.common.errors import InputError
from gare.config import Config, ModelConfig
from gare.config.tree import load_config
from gare.model import GareModel, load_model, save_model
from gare.model.clip_config import read_config
from gare.model.scratch import ScratchClip, make_clip
from gare.model.towers import new_model


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "clip"
    make_clip(["a red circle", "a blue square"], folder, ScratchClip(32, 16, 64, 1, 3, 16, 280))
    return folder


@pytest.fixture
def model(clip_folder):
    torch.manual_seed(0)
    return GareModel.from_clip(clip_folder, ModelConfig(temporal_layers=2)).eval()


def pixels_and_mask():
    g = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, 3, 32, 32, generator=g), torch.arange(4) < torch.tensor([[4], [1], [2]])


def test_from_clip_initialises_the_temporal_blocks_from_the_text_tower(model):
    assert model.temporal_from_text
    layer = model.clip.text_model.encoder.layers[1]
    assert torch.equal(model.temporal.blocks[1].q_proj.weight, layer.self_attn.q_proj.weight)
    assert torch.equal(model.temporal.positions[:16], model.clip.text_model.embeddings.position_embedding.weight)


def test_text_is_the_word_vector_at_the_first_end_token(model):
    ids, mask = model.tokenizer(["a red circle", "a blue"], 12)
    text, words = model.encode_texts(ids, mask)
    assert torch.equal(model.encode_words(ids, mask), words)
    for row in range(2):
        assert torch.equal(text[row], words[row, int(mask[row].sum()) - 1])
    later_ends = ids.clone()
    later_ends[:, -1] = model.end_id
    assert torch.equal(model.encode_text(later_ends, torch.ones_like(mask)), text)


def test_padded_words_change_no_text(model):
    short = model.encode_text(*model.tokenizer(["a red circle"], 12))
    long = model.encode_text(*model.tokenizer(["a red circle"], 16))
    assert torch.allclose(short, long, atol=1e-6)


def test_padded_frames_change_nothing(model):
    pixels, mask = pixels_and_mask()
    plain = model.encode_frames(pixels, mask)
    noise = torch.where(mask[..., None, None, None], pixels, 1e3)
    assert torch.equal(model.encode_frames(noise, mask), plain)
    assert torch.allclose(model.encode_frames(pixels[1:2, :1], mask[1:2, :1]), plain[1:2, :1], atol=1e-6)
    assert (plain[~mask] == 0).all()


def clips_and_mask():
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 4, 3, 32, 32), generator=g, dtype=torch.uint8), pixels_and_mask()[1]


def test_encoding_valid_frames_only_equals_encoding_every_place_and_dropping_the_padded_ones(model, monkeypatch):
    clips, mask = clips_and_mask()
    every = model.embed_images(model.normalise(clips).flatten(0, 1)).view(3, 4, -1)
    plain = model.temporal(every * mask[..., None], mask)
    seen, true = [], model.embed_images
    monkeypatch.setattr(model, "embed_images", lambda pixels: seen.append(len(pixels)) or true(pixels))
    torch.testing.assert_close(model.encode_clips(clips, mask), plain)
    assert seen == [7]


def test_normalising_leaves_the_frames_alone(model):
    pixels = torch.rand(2, 3, 4, 4)
    before = pixels.clone()
    model.normalise(pixels)
    assert torch.equal(pixels, before)


def test_uint8_frames_are_normalised_with_clip_statistics(model):
    white = model.normalise(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    assert torch.allclose(white[0, :, 0, 0], torch.tensor([1.9303, 2.0749, 2.1459]), atol=1e-4)


def test_saved_model_loads_alone_and_scores_the_same(model, tmp_path):
    save_model(model, Config(model=ModelConfig(temporal_layers=2, clip="gone")), tmp_path)
    again = load_model(tmp_path)
    pixels, mask = pixels_and_mask()
    texts = model.tokenizer(["a red circle", "a blue square"], 12)
    for x, y in ((m.score(m.encode_text(*texts), m.encode_frames(pixels, mask), mask) for m in (model, again)),):
        assert torch.equal(x.scores, y.scores)
    assert not again.training


def test_clamp_keeps_the_logit_scale_at_its_maximum(model):
    model.clip.logit_scale.data.fill_(9.0)
    model.clamp_logit_scale()
    assert torch.isclose(model.logit_scale, torch.tensor(100.0))


def test_no_clip_model_is_one_clear_sentence(tmp_path):
    with pytest.raises(InputError, match="Cannot load a CLIP model from"):
        GareModel.from_clip(tmp_path, ModelConfig())


def test_a_folder_that_is_no_checkpoint_is_one_clear_sentence(tmp_path):
    with pytest.raises(InputError, match=r"is not a checkpoint: it has no model.safetensors"):
        load_model(tmp_path)


def test_a_checkpoint_that_does_not_fit_its_settings_is_one_clear_sentence(model, tmp_path):
    config = Config(model=ModelConfig(temporal_layers=2))
    save_model(model, config, tmp_path)
    (tmp_path / "config.yaml").write_text("model:\n  temporal_layers: 3\n")
    with pytest.raises(InputError, match=r"16 tensors are missing \(temporal.blocks.2"):
        load_model(tmp_path)
    save_model(model, config, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"temporal.positions": torch.zeros(5, 64)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"temporal.positions in .* is \(5, 64\)"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="Cannot read the weights"):
        load_model(tmp_path)


def test_checkpoint_config_is_the_resolved_one(model, tmp_path):
    config = load_config(None, ["train.seed=7"])
    save_model(model, config, tmp_path)
    assert load_config(tmp_path / "config.yaml") == config


def test_public_names_resolve_lazily():
    import gare

    assert gare.GareModel is GareModel
    assert gare.load_model is checkpoint.load_model
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gare.nothing  # noqa: B018


def test_blocks_of_other_heads_are_not_copied(tmp_path):
    make_clip(["a red circle"], tmp_path / "clip", ScratchClip(32, 16, 64, 1, 2, 16, 600))
    config = read_config(tmp_path / "clip")
    config.text_config.num_attention_heads = 2
    assert not GareModel(new_model(config), ModelConfig(temporal_layers=1)).temporal_from_text


def test_loading_a_checkpoint_draws_nothing(model, tmp_path):
    save_model(model, Config(model=ModelConfig(temporal_layers=2)), tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    again = load_model(tmp_path)
    assert torch.equal(torch.rand(4), expected)
    assert not [name for name, tensor in [*again.named_parameters(), *again.named_buffers()] if tensor.is_meta]
    assert all(p.requires_grad for p in again.parameters())
