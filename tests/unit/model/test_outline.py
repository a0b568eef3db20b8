"""A model without weights has the names and sizes of the real one, and is found without asking the hub."""

from __future__ import annotations

import json
import socket

import pytest
from transformers import CLIPConfig

from gare.common.errors import InputError
from gare.config import ModelConfig
from gare.model import GareModel
from gare.model.outline import OPENAI, clip_architecture, has_tokenizer, outline


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*where, **_):
        raise AssertionError(f"asked the network for {where[:2]}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    "settings", [{}, {"increment": "none", "temporal_layers": 0}, {"query": "residual_scaled", "temporal_layers": 3}]
)
def test_it_has_the_parameters_of_the_real_model(toy_clip, settings):
    config = ModelConfig(**{"temporal_layers": 1} | settings)
    real = GareModel.from_clip(toy_clip, config)
    empty = outline(clip_architecture(str(toy_clip)), config)
    shapes = [{name: tuple(p.shape) for name, p in model.named_parameters()} for model in (real, empty)]
    assert shapes[0] == shapes[1]
    assert list(shapes[0]) == list(shapes[1])
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert empty.temporal_from_text == real.temporal_from_text
    assert empty.image_size == real.image_size


def test_openai_models_have_their_published_sizes_without_network(no_network):
    sizes = {name: outline(clip_architecture(name), ModelConfig()) for name in OPENAI}
    assert {name: sum(p.numel() for p in model.clip.parameters()) for name, model in sizes.items()} == {
        "openai/clip-vit-base-patch32": 151_277_313,
        "openai/clip-vit-base-patch16": 149_620_737,
        "openai/clip-vit-large-patch14": 427_616_513,
        "openai/clip-vit-large-patch14-336": 427_944_193,
    }
    assert [model.image_size for model in sizes.values()] == [224, 224, 224, 336]
    psi = sum(p.numel() for p in sizes["openai/clip-vit-base-patch32"].head.psi.parameters())
    assert psi == 1_579_008  # 1.58 M, as the paper's code has


def test_the_hub_is_asked_last_and_its_silence_is_one_sentence(monkeypatch):
    asked = []

    def get_config_dict(source, local_files_only):
        asked.append((source, local_files_only))
        if local_files_only:
            raise OSError("not here")
        raise OSError("We couldn't connect.\nTry again later.")

    monkeypatch.setattr(CLIPConfig, "get_config_dict", get_config_dict)
    assert clip_architecture("openai/clip-vit-base-patch16").vision_config.patch_size == 16
    assert asked == [("openai/clip-vit-base-patch16", True)]
    with pytest.raises(InputError) as caught:
        clip_architecture("someone/else")
    assert asked[1:] == [("someone/else", True), ("someone/else", False)]
    assert "from someone/else: We couldn't connect. " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_hub_knows_is_taken(monkeypatch):
    values = CLIPConfig(vision_config={"num_hidden_layers": 3}).to_dict()
    monkeypatch.setattr(CLIPConfig, "get_config_dict", lambda *_, **__: (values, {}))
    assert clip_architecture("someone/else").vision_config.num_hidden_layers == 3


@pytest.mark.parametrize("name", ["clip", "/nowhere", "./clip", "a/b/c"])
def test_what_can_only_be_a_folder_never_goes_to_the_hub(no_network, name):
    with pytest.raises(InputError, match="There is no folder"):
        clip_architecture(name)


def test_a_folder_that_is_no_clip_is_refused(tmp_path, toy_clip):
    folder = tmp_path / "clip"
    folder.mkdir()
    with pytest.raises(InputError, match=r"holds no CLIP model: it has no config.json"):
        clip_architecture(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="Cannot read the config of a CLIP model from"):
        clip_architecture(str(folder))
    good = json.loads((toy_clip / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(good | {"model_type": "bert"}))
    with pytest.raises(InputError, match="is a model of the type bert, not CLIP"):
        clip_architecture(str(folder))
    (folder / "config.json").write_text(json.dumps(good | {"text_config": {"hidden_size": 30, "model_type": "clip"}}))
    with pytest.raises(InputError, match=r"Cannot read the config .* hidden size \(30\) is not a multiple"):
        clip_architecture(str(folder))
    (folder / "config.json").write_text(json.dumps(good | {"projection_dim": -1}))
    with pytest.raises(InputError, match="No CLIP model can be made of its config"):
        outline(clip_architecture(str(folder)), ModelConfig())
    assert not has_tokenizer(str(folder))
    assert has_tokenizer(str(toy_clip))
    assert has_tokenizer("openai/clip-vit-base-patch32")
