"""Families of models beside CLIP compute what transformers computes: from a folder, from a checkpoint, in training."""

from __future__ import annotations

import pytest
import torch

from gare.config import ModelConfig
from gare.model import GareModel, load_model, save_model
from tests import made_towers, toy
from tests.made_towers import TEXTS, WORDS

KINDS = ("siglip2", "siglip", "metaclip_2")
PLAIN = ModelConfig(temporal_layers=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: made_towers.make(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("words", [WORDS, 8])
def test_texts_and_frames_are_encoded_as_transformers_does(folders, kind, tmp_path, words):
    frames = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    text, images = made_towers.features(kind, folders[kind], TEXTS, frames, words)
    model = GareModel.from_clip(folders[kind], PLAIN).eval()
    save_model(model, toy.toy_config(folders[kind], tmp_path, tmp_path, "train.epochs=1"), tmp_path)
    for one in (model, load_model(tmp_path)):
        ids, mask = one.tokenizer(TEXTS, words)
        with torch.no_grad():
            close(one.encode_text(ids, mask), text)
            close(one.embed_images(one.normalise(frames)), images)
            vectors = one.encode_words(ids, mask)
        assert vectors.shape == (len(TEXTS), words, one.dim)
