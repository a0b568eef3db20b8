"""Captions in one cell, as others write lists of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gare.common.errors import InputError
from pipelines.manifest.sources.options import SourceOptions
from pipelines.manifest.sources.tables import from_csv, from_jsonl
from pipelines.manifest.sources.values import NO_CAPTION, NotAListError, listed

TEXTS = st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12), max_size=5)
HEADER = "video_id,uri,split,captions\n"


def cells_of(texts):
    """The same list as each program writes it."""
    yield json.dumps(texts)
    yield json.dumps(texts, ensure_ascii=False, indent=1)
    yield repr(texts)
    yield "[" + ", ".join(f"np.str_({text!r})" for text in texts) + "]"
    if texts:
        yield repr(tuple(texts))
        yield "{" + ", ".join(map(repr, texts)) + "}"
        yield str(np.array(texts, object))
        yield repr(np.array(texts, object))
        if not any(text != text.rstrip("\0") for text in texts):
            yield str(np.array(texts))


@given(TEXTS)
@example(["it's", 'say "x"', "both ' and \"", "back\\slash", "line\nbreak", "é", "\U0001f600", "[music]", "a, b", ""])
@example(["a long caption that makes numpy break the line, " * 2] * 3)
def test_a_list_is_read_as_json_python_pandas_and_numpy_write_it(texts):
    for cell in cells_of(texts):
        assert listed(cell) == texts, cell


@pytest.mark.parametrize(
    "cell",
    [
        '["a", null]',
        '["a", NaN]',
        "['a', None]",
        "['a', nan]",
        "['a' None]",
        "['a' nan]",
        '["a",\n null]',
        "['a', <NA>]",
    ],
)
def test_nothing_in_a_list_is_told_from_text(cell):
    assert listed(cell) == ["a", None]


def test_halves_of_a_character_in_a_list_make_it_as_in_json():
    assert listed(r"['a \ud83d\ude00', 'b']") == ["a \U0001f600", "b"] == listed(r'["a \ud83d\ude00", "b"]')


@pytest.mark.parametrize(
    "cell",
    [
        "[music] a man sings", "[music]", "[applause, laughter]", "[[music]] a man", "['x'] a man says",
        '["Yes"] he says', "[None of them move]", "[NA team] scores", '("hello" she says)', "('hello')", "(laughs)",
        "{smile}", "[", "a [b]", "array of windows", "[a man's dog]", '("hello, there")',
    ],
)  # fmt: skip
def test_text_in_brackets_stays_text(cell):
    assert listed(cell) is None


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (r"['a \ud83d']", "not valid Unicode"),
        (r"['a', '\ude00\ud83d']", "not valid Unicode"),
        ("['a' 'b' ... 'y' 'z']", "left out its middle"),
        ("['a', 'b", "does not end"),
        ("['a', 'b'", "does not end"),
        ('["a", "b', "does not end"),
        ("['it's a dog']", "not a text in quotes"),
        ("['it''s a dog']", "not all separated"),
        ("['a' 'b', 'c']", "not all separated"),
        ("[b'a', b'b']", "bytes"),
        ("[1, 2]", "other things than texts"),
        ("['a', 2]", "other things than texts"),
        ('["a", true]', "other things than texts"),
        ('[["a"], ["b"]]', "other things than texts"),
        ("[['a' 'b']\n ['c' 'd']]", "other things than texts"),
        ('[{"caption": "a"}]', "other things than texts"),
        ("[{'caption': 'a'}]", "other things than texts"),
        ('{"caption": "a"}', "an object"),
        ("{'caption': 'a'}", "an object"),
        ("['\\U7fffffff']", "not the code of a character"),
    ],
)
def test_a_list_that_is_none_of_texts_is_one_sentence_with_its_line(tmp_path, cell, reason):
    with pytest.raises(NotAListError, match=reason):
        listed(cell)
    quoted = cell.replace('"', '""')
    (tmp_path / "a.csv").write_text(f'{HEADER}a,a.mp4,train,"two\nlines"\nb,b.mp4,train,"{quoted}"\n')
    with pytest.raises(InputError, match=f"a.csv line 4: .* looks like a list of captions, but .*{reason}"):
        from_csv(tmp_path / "a.csv", SourceOptions())


def test_captions_that_are_none_are_dropped_and_counted(tmp_path):
    rows = "".join(f"v{n},{n}.mp4,train,{none}\n" for n, none in enumerate(sorted(NO_CAPTION)))
    lists = "a,a.mp4,train,\"['a cat', None, 'nan', '']\"\nb,b.mp4,train,None of them\nc,c.mp4,train,\n"
    (tmp_path / "a.csv").write_text(HEADER + rows + lists)
    made = from_csv(tmp_path / "a.csv", SourceOptions())
    assert {row["video_id"]: row["captions"] for row in made.table.to_pylist()} == {
        "a": ["a cat"],
        "b": ["None of them"],
    }
    assert (made.dropped_captions, made.uncaptioned) == (len(NO_CAPTION) + 3, len(NO_CAPTION) + 1)


def test_json_lines_have_nan_and_null_as_well(tmp_path):
    values = ["NaN", '["a", NaN, null, "None"]', '"nan"', "null"]
    lines = [f'{{"video_id": "v{n}", "uri": "a", "captions": {value}}}\n' for n, value in enumerate(values)]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    made = from_jsonl(tmp_path / "a.jsonl", SourceOptions(split="x"))
    assert made.table.to_pylist()[0]["captions"] == ["a"]
    assert (made.dropped_captions, made.uncaptioned) == (5, 3)


def test_the_lists_of_the_example_are_captions(fixtures_dir):
    made = from_csv(fixtures_dir / "faults/04-caption-lists-in-csv/pylist.csv", SourceOptions())
    assert [row["captions"] for row in made.table.to_pylist()] == [
        ["a red square moves left", "a man's dog runs"], ["one caption"],
    ]  # fmt: skip
