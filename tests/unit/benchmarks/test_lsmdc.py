from __future__ import annotations

import pytest

from gare.common.errors import InputError
from tests.unit.benchmarks.made import ids, make, rows, touch, write

CLIP = "1004_Juno_00.00.{:02}.166-00.00.33.920"
TIMES = "00.00.32.166\t00.00.32.920\t00.00.31.543\t00.00.33.543"


def lines(*pairs, end="\n"):
    return "".join(f"{CLIP.format(n)}\t{TIMES}\t{text}{end}" for n, text in pairs)


@pytest.fixture
def small(tmp_path):
    files = {
        "LSMDC16_annos_training.csv": lines((1, "SOMEONE drinks."), (2, 'He says "no.'), (1, "She leaves.")),
        "LSMDC16_annos_val.csv": lines((3, "SOMEONE waits."), end="\r\n"),
        "LSMDC16_challenge_1000_publictect.csv": lines((4, "SOMEONE runs."), (5, " ")),
    }
    clips = [f"1004_Juno/{CLIP.format(n)}.avi" for n in (1, 2, 3, 4, 5)]
    return write(tmp_path / "annotations", files), touch(tmp_path / "videos", clips)


def test_each_clip_is_a_file_and_may_have_several_sentences(small):
    made = make("lsmdc", *small)
    held = rows(made.table)
    assert held[CLIP.format(1)]["captions"] == ["SOMEONE drinks.", "She leaves."]
    assert held[CLIP.format(2)]["captions"] == ['He says "no.']
    assert held[CLIP.format(3)]["captions"] == ["SOMEONE waits."]
    assert held[CLIP.format(3)]["split"] == "dev"
    assert held[CLIP.format(4)]["uri"] == str(small[1] / "1004_Juno" / f"{CLIP.format(4)}.avi")
    assert {row["end_s"] for row in held.values()} == {None}


def test_a_clip_without_words_is_left_out_and_counted(small):
    counts = make("lsmdc", *small).counts["test"]
    assert (counts.annotated, counts.uncaptioned, counts.empty_captions, counts.videos) == (2, 1, 1, 1)
    assert counts.published == 1000


@pytest.mark.parametrize("suffix", ["", ".MP4"])
def test_the_dots_of_a_clips_name_are_part_of_it(small, suffix):
    annotations, videos = small
    there = videos / "1004_Juno"
    (there / f"{CLIP.format(4)}.avi").rename(there / f"{CLIP.format(4)}{suffix}")
    assert ids(make("lsmdc", annotations, videos), "test") == [CLIP.format(4)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "names no video"),
        ("\n\n", "names no video"),
        ("a\tb\n", "line 1 has 2 cells between tabs and not 6"),
        (lines((4, "x")) + "\n" + lines((5, "x\ty")), "line 3 has 7 cells"),
        (b"\xff\xfe\t", "is not UTF-8"),
        (lines((1, "x")), "is in both train and test"),
        (lines((3, "x")), "is in both dev and test"),
    ],
)
def test_annotations_that_cannot_be_used_are_one_sentence(small, content, says):
    write(small[0], {"LSMDC16_challenge_1000_publictect.csv": content})
    with pytest.raises(InputError, match=says):
        make("lsmdc", *small)
