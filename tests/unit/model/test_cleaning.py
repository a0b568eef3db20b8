"""Texts are cleaned and cut as OpenAI's CLIP does it, and a checkpoint keeps the rule it was made with."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from gare.common.errors import InputError
from gare.model import Tokenizer
from gare.model.tokenizer import clean
from gare.model.vocabulary import read_vocabulary
from tests import clean_reference

TEXTS = ["a small red circle's moving left", "cafés don't close, they're open: 42 of them", "ünïcode & <html> “quotes”"]
ODD = [
    "it&#39;s a caf&eacute; &amp;amp; bar",
    "schÃ¶n &quot;mojibakeâ€™s&quot;",
    "the lawyerâ€™s ﬁne ﬂat",
    "full \uff57\uff49\uff44\uff54\uff48\u3000text",
    "\u201ccurly\u201d \u2018quotes\u2019 …",
    "A\u030angstro\u0308m and &#65;&#x30a;",
    "two\r\nlines\u2028three\x85four \x1c five\xa0six\u200bseven",
    "\x1b[31mred\x1b[0m and \x00 control \x07",
    "İstanbul ΣΊΣΥΦΟΣ Straße ǅ \u212a",
    "x² ½ Ⅷ ١٢٣ 42nd",
    "emoji 🎈👩‍👩‍👧 flags 🇩🇪",
    "!!<|endoftext|> <|endoftext|> a<|startoftext|> <|ENDOFTEXT|>",
    "I'M SURE HE'LL've DON'T 's'",
    "a &lt;b&gt; c",
    "&amp;lt;|endoftext|&amp;gt;",
    "   ",
    "",
    "lone \ud800 surrogate",
    "漢字かな交じり文 हिन्दी العربية",
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, vocabulary=600)


def pieces(tokenizer, text, words=400):
    ids, mask = tokenizer([text], words)
    return ids[mask].tolist()[1:-1]


def expected(tokenizer, text):
    vocabulary = tokenizer._vocabulary
    return clean_reference.encoded(text, vocabulary.ids, vocabulary.merges)


@pytest.mark.parametrize("text", [*TEXTS, *ODD])
def test_odd_texts_get_the_ids_of_the_published_rule(tokenizer, text):
    assert pieces(tokenizer, text) == expected(tokenizer, text)


# Characters that this Python knows: of newer ones the three libraries' tables may say different things.
KNOWN = st.characters(exclude_categories=("Cs", "Cn"))


@settings(max_examples=200, deadline=None)
@given(st.text(KNOWN, max_size=40) | st.text(st.sampled_from("aB 'sS&;#x39lt<|>endoftext42é\u0301\n"), max_size=40))
@example("&#x1e9e;")
def test_any_text_gets_the_ids_of_the_published_rule(tokenizer, text):
    assert clean(text) == clean_reference.cleaned(text)
    assert pieces(tokenizer, text) == expected(tokenizer, text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="ascii"), max_size=60))
def test_the_short_way_for_plain_text_changes_nothing(text):
    assert clean(text) == clean_reference.cleaned(text)


def test_the_rule_is_saved_with_the_tokenizer_and_absent_in_old_ones(tokenizer, tmp_path):
    text = ODD[0]
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    saved = json.loads(path.read_text())
    assert saved["text_cleaning"] == "openai"
    assert Tokenizer.load(tmp_path, unrecorded="none").cleaning == "openai"
    path.write_text(json.dumps({k: v for k, v in saved.items() if k != "text_cleaning"}))
    old = Tokenizer.load(tmp_path, unrecorded="none")
    assert pieces(old, text) != pieces(tokenizer, text)
    old.save(tmp_path)
    assert Tokenizer.load(tmp_path).cleaning == "none"
    path.write_text(json.dumps(saved | {"text_cleaning": "spacy"}))
    with pytest.raises(InputError, match="says text_cleaning: 'spacy', which is not known of tokenizers"):
        Tokenizer.load(tmp_path)


def test_a_saved_tokenizer_is_the_one_that_transformers_would_save(tokenizer, tmp_path):
    vocabulary = read_vocabulary(_saved(tokenizer, tmp_path / "ours"))
    CLIPTokenizer(vocab=dict(vocabulary.ids), merges=list(vocabulary.merges)).save_pretrained(tmp_path / "theirs")
    ours, theirs = (
        {path.name: json.loads(path.read_text()) for path in (tmp_path / name).iterdir()} for name in ("ours", "theirs")
    )
    assert ours["tokenizer_config.json"].pop("text_cleaning") == "openai"
    assert ours == theirs


def _saved(tokenizer, folder):
    folder.mkdir()
    tokenizer.save(folder)
    return folder


def test_without_cleaning_ids_are_those_of_transformers(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    theirs, ours = CLIPTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    ours.cleaning = "none"
    texts = [text for text in (*TEXTS, *ODD) if text.isprintable()]
    assert [pieces(ours, text) for text in texts] == theirs(texts, add_special_tokens=False)["input_ids"]
    ours.cleaning = "openai"
    assert torch.equal(ours(TEXTS, 40)[0], tokenizer(TEXTS, 40)[0])
