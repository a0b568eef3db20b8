"""Token ids: trained, saved, loaded, cut and padded."""

from __future__ import annotations

import pytest

from gare.common.errors import InputError
from gare.model import Tokenizer

TEXTS = ["a small red circle moving left", "a large blue square moving right", "circles and squares"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, vocabulary=560)


def test_start_and_end_frame_every_text_and_padding_is_masked(tokenizer):
    ids, mask = tokenizer(TEXTS, 20)
    assert ids.shape == mask.shape == (3, 20)
    assert (ids[:, 0] == tokenizer.start_id).all()
    for row, valid in zip(ids, mask, strict=True):
        n = int(valid.sum())
        assert row[n - 1] == tokenizer.end_id
        assert (row[n:] == 0).all()
        assert (row[: n - 1] != tokenizer.end_id).all()


def test_a_long_text_is_cut_before_its_end_token(tokenizer):
    ids, mask = tokenizer(["left " * 50], 8)
    assert mask.all()
    assert ids[0, -1] == tokenizer.end_id


def test_any_text_can_be_spelled(tokenizer):
    ids, mask = tokenizer(["Ünïcode 🎈 QUICK zebra 0042 <html>"], 77)
    assert mask.sum() > 10
    assert (ids[0, 1 : mask.sum() - 1] != tokenizer.end_id).all()


def test_case_and_spaces_do_not_matter(tokenizer):
    assert tokenizer(["A  Small RED circle"], 16)[0].tolist() == tokenizer(["a small red circle"], 16)[0].tolist()


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.end_id == tokenizer.end_id
    assert again(TEXTS, 16)[0].tolist() == tokenizer(TEXTS, 16)[0].tolist()


def test_training_is_deterministic(tokenizer):
    for _ in range(5):
        assert Tokenizer.train(TEXTS, vocabulary=560)(TEXTS, 24)[0].tolist() == tokenizer(TEXTS, 24)[0].tolist()


def test_learned_words_take_few_tokens(tokenizer):
    assert int(tokenizer(["circle"], 16)[1].sum()) < 2 + len("circle")


def test_a_folder_without_a_tokenizer_is_one_clear_sentence(tmp_path):
    with pytest.raises(InputError, match="holds no CLIP tokenizer"):
        Tokenizer.load(tmp_path)
