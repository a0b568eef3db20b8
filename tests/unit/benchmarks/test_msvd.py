from __future__ import annotations

import os
import pickle
import shutil

import pytest

from gare.common.errors import InputError
from tests.unit.benchmarks.made import ids, make, numbers, rows, touch, write

CAPTIONS = "raw-captions.pkl"


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def annotations_of(tmp_path, captions, **lists):
    lists = {"train": "a\nb\n", "val": "c", "test": "d\r\n"} | lists
    files = {f"{name}_list.txt": text for name, text in lists.items()}
    content = captions if isinstance(captions, bytes) else pickle.dumps(captions)
    return write(tmp_path / "annotations", files | {CAPTIONS: content})


def videos_of(tmp_path, names="abcd"):
    return touch(tmp_path / "videos", [f"{name}.avi" for name in names])


GOOD = {name: [["a", "cat", name], ["it", "jumps"]] for name in "abcd"}


def test_the_published_lists_have_their_numbers(fixtures_dir, tmp_path):
    annotations = shutil.copytree(fixtures_dir / "annotations" / "msvd", tmp_path / "annotations")
    names = [name for path in annotations.iterdir() for name in path.read_text().split()]
    (annotations / CAPTIONS).write_bytes(pickle.dumps({name: [["one"], ["and", "two"]] for name in names}, protocol=2))
    made = make("msvd", annotations, videos_of(tmp_path, names), strict=True)
    assert numbers(made) == {"train": (1200, 2400), "dev": (100, 200), "test": (670, 1340)}
    assert not any(row["attributes"] for row in made.table.to_pylist())


@pytest.mark.parametrize("protocol", range(6))
def test_tokens_are_joined_and_every_caption_kept_in_every_protocol(tmp_path, protocol):
    captions = GOOD | {"d": [["a", "café"], ["a", "café"], [], [" "], ["\u2603"]], "of no list": [["x"]]}
    made = make("msvd", annotations_of(tmp_path, pickle.dumps(captions, protocol)), videos_of(tmp_path))
    assert rows(made.table)["a"]["captions"] == ["a cat a", "it jumps"]
    assert rows(made.table)["d"]["captions"] == ["a café", "a café", "\u2603"]
    assert made.counts["test"].empty_captions == 2
    assert [ids(made, split) for split in ("train", "dev", "test")] == [["a", "b"], ["c"], ["d"]]


def test_a_video_of_a_list_without_captions_is_left_out_and_counted(tmp_path):
    made = make("msvd", annotations_of(tmp_path, {**GOOD, "b": [], "c": [[]]}), videos_of(tmp_path))
    assert ids(made, "train") == ["a"]
    assert (made.counts["train"].uncaptioned, made.counts["dev"].uncaptioned) == (1, 1)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_asks_for_more_than_data_is_refused_and_not_run(command, tmp_path, protocol):
    for evil in (Evil(os.system, f"touch {tmp_path}/ran"), Evil(eval, f"open('{tmp_path}/ran', 'w')")):
        annotations = annotations_of(tmp_path, pickle.dumps(GOOD | {"d": evil}, protocol))
        code, result, _ = command("msvd", annotations, videos_of(tmp_path), tmp_path / "m")
        assert (code, result.keys()) == (3, {"error"})
        assert "which is not data, and nothing was run" in result["error"]
        assert not (tmp_path / "ran").exists()
        assert not (tmp_path / "m").exists()


def shared(levels):
    """A pickle of a list of lists of ... that stands for 10 ** levels items."""
    program = b"\x80\x02]q\x00"
    for n in range(levels):
        program += b"]q" + bytes([n + 1]) + b"(" + (b"h" + bytes([n])) * 10 + b"e"
    return program


def recursive():
    tokens = []
    tokens.append(tokens)
    return pickle.dumps(GOOD | {"a": [tokens]})


def repeated():
    """A megabyte that stands for 10 ** 11 words."""
    words = b"]q\x00(" + b"U\x01xq\x01" + b"h\x01" * 300_000 + b"e"
    return b"\x80\x02}U\x01a]q\x02(" + words + b"h\x00" * 300_000 + b"es."


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "its pickle has no end"),
        (b".", "damaged"),
        (pickle.dumps(GOOD)[:-40], "damaged|no end"),
        (b"\x80\x02" + b"h\x05.", "damaged"),
        (b"\x80\x02" + b"0" * 5 + b".", "damaged|does not need"),
        (b"\x80\x02" + b"(" * 1000 + b".", "is not a mapping"),
        (b"\x80\x02" + b"\x85" * 1000 + b".", "damaged"),
        (b"}r\xff\xff\xff\xff.", "No video in .* has a caption"),
        (b"\x80\x04\x8d" + b"\xff" * 8 + b"abc.", "damaged"),
        (b"I" + b"9" * 10_000 + b"\n.", "damaged"),
        (b"hello, I am no pickle", "damaged|does not need"),
        (shared(30) + b".", "is not a mapping of videos to captions"),
        (recursive(), "a caption that is not a list of words"),
        (repeated(), "unfolds to more than"),
        (pickle.dumps([1, 2]), "is not a mapping of videos to captions"),
        (pickle.dumps({1: [["a"]]}), "is not a video's id"),
        (pickle.dumps({"a": "text"}), "is not a list of captions"),
        (pickle.dumps({"a": ["text"]}), "a caption that is not a list of words"),
        (pickle.dumps({"a": [[1]]}), "a caption that is not a list of words"),
        (pickle.dumps({"a": [[{1, 2}]]}), "which is not data|does not need"),
        (pickle.dumps({"a": [[b"bytes"]]}), "which is not data|does not need"),
        (pickle.dumps({("a",): [["b"]]}), "a key that is a tuple"),
    ],
)
def test_a_pickle_of_something_else_is_one_sentence(tmp_path, content, says):
    with pytest.raises(InputError, match=says) as error:
        make("msvd", annotations_of(tmp_path, content), videos_of(tmp_path))
    assert len(str(error.value).splitlines()) == 1


def test_a_pickle_too_long_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.manifest.benchmarks.msvd.MAX_BYTES", 10)
    with pytest.raises(InputError, match=r"raw-captions.pkl has more than"):
        make("msvd", annotations_of(tmp_path, GOOD), videos_of(tmp_path))


def test_lists_that_overlap_are_an_error(tmp_path):
    with pytest.raises(InputError, match=r"1 video \(a\) is in both train and dev"):
        make("msvd", annotations_of(tmp_path, GOOD, val="c\na\n"), videos_of(tmp_path))
