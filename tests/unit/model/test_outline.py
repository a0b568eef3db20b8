"""A model without weights has the names and sizes of the real one, and is found without asking the hub."""

from __future__ import annotations

import socket
from pathlib import Path

import huggingface_hub
import pytest

from gare.common.errors import InputError
from gare.config import ModelConfig
from gare.model import GareModel
from gare.model.clip_config import OPENAI, read_config
from gare.model.clip_source import inspect_clip
from gare.model.gare import outline


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
    empty = outline(inspect_clip(str(toy_clip)).architecture, config)
    shapes = [{name: tuple(p.shape) for name, p in model.named_parameters()} for model in (real, empty)]
    assert shapes[0] == shapes[1]
    assert list(shapes[0]) == list(shapes[1])
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert empty.temporal_from_text == real.temporal_from_text
    assert empty.image_size == real.image_size


def test_openai_models_have_their_published_sizes_without_network(no_network):
    sizes = {name: outline(inspect_clip(name).architecture, ModelConfig()) for name in OPENAI}
    assert {name: sum(p.numel() for p in model.clip.parameters()) for name, model in sizes.items()} == {
        "openai/clip-vit-base-patch32": 151_277_313,
        "openai/clip-vit-base-patch16": 149_620_737,
        "openai/clip-vit-large-patch14": 427_616_513,
        "openai/clip-vit-large-patch14-336": 427_944_193,
    }
    assert [model.image_size for model in sizes.values()] == [224, 224, 224, 336]
    psi = sum(p.numel() for p in sizes["openai/clip-vit-base-patch32"].head.psi.parameters())
    assert psi == 1_579_008  # 1.58 M, as the paper's code has


class Hub:
    """What stands in for the hub: a folder of the model, on this machine or there, or neither."""

    def __init__(self, monkeypatch, *, here: Path | None = None, there: Path | None = None) -> None:
        self.here, self.there, self.asked = here, there, []
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def download(self, source, local_files_only=False, allow_patterns=()):  # noqa: ARG002
        self.asked.append((source, "here" if local_files_only else "there"))
        folder = self.here if local_files_only else self.there
        if folder is None:
            raise OSError("We couldn't connect.\nTry again later.")
        return str(folder)


def test_the_hub_is_asked_last_and_its_silence_is_one_sentence(monkeypatch):
    hub = Hub(monkeypatch)
    found = inspect_clip("openai/clip-vit-base-patch16")
    assert found.architecture.vision_config.patch_size == 16
    assert not found.lacks_tokenizer
    assert hub.asked == [("openai/clip-vit-base-patch16", "here")]
    with pytest.raises(InputError) as caught:
        inspect_clip("someone/else")
    assert {place for source, place in hub.asked if source == "someone/else"} == {"here", "there"}
    assert "from someone/else: We couldn't connect. " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["here", "there"])
def test_what_the_hub_knows_is_taken_with_or_without_its_weights(monkeypatch, toy_clip, tmp_path, place):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((toy_clip / name).read_bytes())
    Hub(monkeypatch, **{place: tmp_path})
    found = inspect_clip("someone/else")
    assert found.architecture.vision_config.num_hidden_layers == 1
    assert found.tokenizer == GareModel.from_clip(toy_clip, ModelConfig(temporal_layers=0)).tokenizer


def test_a_hub_id_is_loaded_as_its_folder_is(monkeypatch, toy_clip):
    Hub(monkeypatch, there=toy_clip)
    model = GareModel.from_clip("someone/else", ModelConfig(temporal_layers=0))
    assert model.tokenizer is not None
    assert model.clip.config == read_config(toy_clip)


@pytest.mark.parametrize("name", ["clip", "/nowhere", "./clip", "a/b/c"])
def test_what_can_only_be_a_folder_never_goes_to_the_hub(no_network, name):
    for ask in (inspect_clip, lambda source: GareModel.from_clip(source, ModelConfig())):
        with pytest.raises(InputError, match=f"Cannot load a CLIP model from {name}: there is no such folder"):
            ask(name)
