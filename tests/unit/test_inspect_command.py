"""``gare inspect``: what it prints, draws and ends with."""

from __future__ import annotations

import json
import shutil

import pytest

from gare.cli import main
from tests.prepared import make_sources, prepare


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("inspect")
    prepare(place / "shards", make_sources(place / "videos"))
    return place


def inspect(capfd, *arguments):
    """Exit code, standard output and standard error of ``gare inspect``."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["inspect", *map(str, arguments)])
    return ended.value.code, *capfd.readouterr()


def test_it_prints_the_figures_and_says_nothing_is_wrong(capfd, made, tmp_path):
    code, out, err = inspect(capfd, made / "shards", "--verify", "--sheet", tmp_path / "new/sheet.png")
    assert code == 0
    for text in ("unreadable", "train", "h264", "96 x 64", "prepare.max_frames", "source seconds"):
        assert text in out
    assert "2 of 2 work units finished" in err
    assert "3 sources decoded again: 0 differences, 0 sources not verifiable" in err
    assert "contact sheet of 3 videos" in err
    assert (tmp_path / "new/sheet.png").stat().st_size > 5_000


def test_json_is_everything_and_standard_error_tells_the_rest(capfd, made):
    code, out, _ = inspect(capfd, made / "shards", "--verify", "--sample", "all", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["finished"]
    assert result["remark"] is None
    assert result["verify"] == {"problems": [], "unverifiable": [], "shards": 2, "rows": 4, "sources": 3}
    assert {"outcomes", "splits", "decode", "recipe", "bytes"} <= result.keys()


def test_differences_are_listed_and_end_with_code_4(capfd, made, tmp_path):
    folder = shutil.copytree(made / "shards", tmp_path / "shards")
    path = folder / "shards/unit-000001-00.arrow"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"h264", b"hevc", 1))
    code, out, err = inspect(capfd, folder, "--verify")
    assert code == 4
    assert "unit-000001-00.arrow has another SHA-256" in out
    assert err.count("error:") == 1
    code, out, _ = inspect(capfd, folder, "--verify", "--json")
    result = json.loads(out)
    assert code == 4
    assert "differs in 2 places" in result["error"]  # the digest, and what its source decodes to
    assert len(result["verify"]["problems"]) == 2
    assert result["splits"]
    assert inspect(capfd, folder)[0] == 0


def test_a_source_that_is_gone_is_no_difference(capfd, made, tmp_path):
    videos = shutil.copytree(made / "videos", tmp_path / "videos")
    folder = prepare(tmp_path / "shards", videos)
    (videos / "c.mp4").unlink()
    code, _, err = inspect(capfd, folder, "--verify", "--sample", "all")
    assert code == 0
    assert "warning: 'c'" in err
    assert "1 sources not verifiable" in err


def test_an_unfinished_folder_is_shown_and_called_so(capfd, made, tmp_path):
    folder = shutil.copytree(made / "shards", tmp_path / "shards")
    (folder / "dataset.json").unlink()
    (folder / "ledger/unit-000000.parquet").unlink()
    code, out, err = inspect(capfd, folder)
    assert code == 0
    assert "warning: 1 of 2 work units are not finished" in err
    assert "h264" in out
    assert inspect(capfd, folder, "--verify")[0] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ("{made}/none", 3, "There is no folder"),
        ("{made}/videos", 3, "is no folder of gare prepare"),
        ("{made}/shards --sample many", 3, "--sample is a number of videos or all"),
        ("{made}/shards --sample -1", 3, "--sample is a number of videos or all"),
        ("{made}/shards --sheet {made}/videos", 3, "it is a folder"),
        ("{made}/shards --sheet {made}/x.png --split dev", 3, "has no decoded video in the split 'dev' to draw"),
        ("{made}/shards --videos 0", 2, "'--videos'"),
    ],
)
def test_mistakes_are_one_sentence(capfd, made, arguments, code, sentence):
    ended, _, err = inspect(capfd, *arguments.format(made=made).split())
    assert ended == code
    assert sentence in err
    assert err.count("error:") == 1
