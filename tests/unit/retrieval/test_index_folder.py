"""The index on disk: what is made, appended, deleted, compacted and checked, and what a kill leaves."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch

from gare.common.errors import ConfigError, InputError
from gare.common.files import file_digest, write_json
from gare.config.experiment import ModelConfig
from gare.data.shards import ShardSet
from gare.evaluation.encode import encode_texts, encode_videos, score_pairs
from gare.model import GareModel
from gare.model.checkpoint import save_model
from gare.retrieval import build, changes, segment_writer, units
from gare.retrieval.build import append_videos, write_index
from gare.retrieval.changes import check_index, compact_index, delete_videos
from gare.retrieval.codes import SegmentCodes
from gare.retrieval.folder import INDEX_FILE, next_generation, read_index_file
from gare.retrieval.index import SearchIndex
from gare.retrieval.model import IndexModel
from gare.retrieval.opening import open_index
from gare.schema import DATASET_FILE
from gare.scoring.video_index import VideoIndex
from tests import toy

QUERY = "a red square left"
QUERIES = [
    f"{a} {c} square {k} {n}" for a in ("a", "the", "one") for c in toy.COLOURS for k in toy.CORNERS for n in "xy"
]
NO_REGULARISERS = [f"objective.{n}.weight=0" for n in ("information_bottleneck", "trust_region", "direction_diversity")]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return ShardSet(toy.make_shards(tmp_path_factory.mktemp("shards") / "s", {"train": 18, "dev": 6}))


@pytest.fixture(scope="module")
def model_of(tmp_path_factory, toy_clip, shards):
    """Make the opened model of a checkpoint, untrained."""

    def make(*overrides):
        folder = tmp_path_factory.mktemp("checkpoint")
        config = toy.toy_config(toy_clip, shards.folder, folder, "model.max_frames=3", *overrides)
        torch.manual_seed(0)
        model = GareModel.from_clip(toy_clip, config.model).eval()
        save_model(model, config, folder)
        return IndexModel.of_checkpoint(folder, model, config)

    return make


@pytest.fixture(scope="module")
def model(model_of):
    return model_of()


@pytest.fixture
def written(tmp_path, model, shards):
    """The index of the 18 training videos."""
    return write_index(tmp_path / "index", model, shards, "train", storage="float32")


def answers(index, top=30, **how):
    """Ids, scores but for what the size of a block does to their last digit, and sources."""
    return [(hit.video_id, round(hit.score, 6), hit.uri) for hit in index.search(QUERY, top, **how)]


def records_of(index):
    """The bytes of all records, a row each."""
    parts = [s.records.read(np.arange(len(s)), index.threads) for s in index.segments]
    return np.concatenate(parts).view(np.uint8).reshape(len(index), -1)


def files(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


def own_scores(model, shards, split="train"):
    """The scores of the model itself, by id."""
    part = shards.split(split)
    config = model.config
    texts = encode_texts(model.model, model.tokenizer, [QUERY], config.data.words, 1)
    videos = encode_videos(model.model, part, config.data, 4)
    scores = score_pairs(model.model, texts, videos, 4)[0].tolist()
    return dict(zip([video.video_id for video in part.videos], scores, strict=True))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.context=words",),
        ("model.query=residual",),
        ("model.increment=none",),
        ("model.head=xpool", *NO_REGULARISERS),
    ],
    ids=str,
)
@pytest.mark.parametrize(("storage", "near"), [("float32", 1e-5), ("float16", 5e-3)])
def test_an_index_answers_with_the_scores_of_its_model(tmp_path, model_of, shards, overrides, storage, near):
    model = model_of(*overrides)
    write_index(tmp_path / "index", model, shards, "train", storage=storage)
    index, expected = open_index(tmp_path / "index"), own_scores(model, shards)
    found = {video_id: score for video_id, score, _ in answers(index)}
    assert found == pytest.approx(expected, abs=near)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert str(index.search(QUERY, 3).searched) == "scored all 18 videos"


def test_a_clip_without_training_answers_by_the_zero_shot_rule(tmp_path, toy_clip, shards):
    clip = GareModel.from_clip(toy_clip, ModelConfig(head="mean_pool", temporal_layers=0)).eval()
    config = toy.toy_config(toy_clip, shards.folder, tmp_path)
    model = IndexModel.of_clip(str(toy_clip), clip, config)
    write_index(tmp_path / "index", model, shards, "train", storage="float32")
    opened = open_index(tmp_path / "index")
    assert {v: s for v, s, _ in answers(opened)} == pytest.approx(own_scores(model, shards), abs=1e-5)
    assert opened.model.clip


def test_other_weights_are_refused(written, model_of, tmp_path, shards, toy_clip):
    other = model_of("model.gap_sign=-1")
    with torch.no_grad():
        other.model.head.psi.q_proj.weight.add_(1)
    save_model(other.model, other.config, tmp_path)
    with pytest.raises(ConfigError, match="other weights"):
        open_index(written.folder, tmp_path)
    changed = IndexModel.of_checkpoint(tmp_path, other.model, other.config)
    with pytest.raises(ConfigError, match="other weights"):
        append_videos(written.folder, changed, shards, "dev")
    with pytest.raises(InputError, match="--checkpoint"):
        open_index(written.folder, tmp_path / "nowhere")


def test_appended_deleted_and_compacted_videos_answer_as_if_built_so(written, tmp_path, model, shards, monkeypatch):
    folder, before, before_records = written.folder, answers(written), records_of(written)
    opened, added = append_videos(folder, model, shards, "dev")
    assert added == 6
    assert {v: s for v, s, _ in answers(opened)} == pytest.approx(
        own_scores(model, shards) | own_scores(model, shards, "dev"), abs=1e-5
    )
    assert append_videos(folder, model, shards, "dev")[1] == 0
    delete_videos(folder, ["dev0", "dev1", "dev2", "dev3", "dev4", "dev5"])
    assert answers(open_index(folder)) == before
    delete_videos(folder, ["train3"])
    left = [hit for hit in before if hit[0] != "train3"]
    assert answers(open_index(folder)) == left
    monkeypatch.setattr(segment_writer, "SEGMENT_VIDEOS", 5)
    monkeypatch.setattr(changes, "ENCODED", 5)
    compacted = compact_index(folder, model)
    assert [segment.videos for segment in compacted.record.segments] == [5, 5, 5, 2]
    assert answers(compacted) == answers(open_index(folder)) == left
    assert files(folder) == {INDEX_FILE, *compacted.record.names()}
    kept = [n for n, video_id in enumerate(written.segments[0].table["video_id"].to_pylist()) if video_id != "train3"]
    assert np.array_equal(records_of(compacted), before_records[kept])
    assert append_videos(folder, model, shards, "train")[1] == 1


def test_deleting_a_video_that_is_not_there_deletes_none(written):
    with pytest.raises(InputError, match="no video 'nobody'; nothing was deleted"):
        delete_videos(written.folder, ["train1", "nobody"])
    assert len(open_index(written.folder)) == 18


def test_a_filter_leaves_the_videos_with_the_attribute(written):
    everything = {hit.video_id: hit.score for hit in written.search(QUERY, 30)}
    red = written.search(QUERY, 30, where={"colour": "red"})
    expected = {f"train{n}": pytest.approx(everything[f"train{n}"], abs=1e-6) for n in range(0, 18, 4)}
    assert {hit.video_id: hit.score for hit in red} == expected
    assert red.searched.videos == 5
    assert written.search(QUERY, 3, where={"colour": "pink"}) == []
    with pytest.raises(InputError, match="attribute 'color'; there are: 'colour'"):
        written.search(QUERY, 3, where={"color": "red"})


def test_videos_like_another_one_leave_it_out(written):
    found = written.like("train0", 17)
    assert len(found) == 17
    assert "train0" not in {hit.video_id for hit in found}
    videos = encode_videos(written.model.model, shards_of(written), written.model.config.data, 4)
    from gare.scoring.mean_pool import video_vectors

    vectors = video_vectors(videos.frames, videos.frame_mask)
    expected = (vectors @ vectors[0]).tolist()
    ids = [f"train{n}" for n in range(18)]
    assert {hit.video_id: hit.score for hit in found} == pytest.approx(
        {ids[n]: expected[order] for order, n in enumerate(order_of(written)) if ids[n] != "train0"}, abs=1e-5
    )
    with pytest.raises(InputError, match="no video 'nobody'"):
        written.like("nobody", 3)


def shards_of(index):
    return ShardSet(index.model.config.runtime.shards).split("train")


def order_of(index):
    return [int(video.video_id.removeprefix("train")) for video in shards_of(index).videos]


def test_a_first_stage_scores_few_exactly_and_says_what_it_holds(tmp_path, model, shards, monkeypatch):
    monkeypatch.setattr("gare.retrieval.index.FEW", 0)
    plain = write_index(tmp_path / "plain", model, shards, "train", storage="float32")
    staged = write_index(tmp_path / "staged", model, shards, "train", storage="float32", stage_above=4, queries=QUERIES)
    assert staged.record.recall.candidates == [18]
    assert staged.record.recall.captions == staged.record.recall.fragments == [1.0]
    exact = {v: s for v, s, _ in answers(plain)}
    some = staged.search(QUERY, 2, first_stage=6)
    assert some.searched.scored == 6
    assert all(hit.score == pytest.approx(exact[hit.video_id], abs=1e-6) for hit in some)
    assert [h[:2] for h in answers(staged, exact=True)] == [h[:2] for h in answers(plain)]
    assert staged.search("zebra quantum llama", 3, first_stage=6).searched.unknown
    assert len(staged.search(QUERY, 9, first_stage=1)) == 9
    assert len(staged.like("train0", 3)) == 3
    with pytest.raises(InputError, match="--stage-above"):
        plain.search(QUERY, 3, first_stage=2)
    # Grown and compacted, the stage stays that of the first videos; measured again, its recall is of all.
    grown, _ = append_videos(tmp_path / "staged", model, shards, "dev")
    assert grown.record.basis == staged.record.basis
    delete_videos(tmp_path / "staged", ["train1"])
    compacted = compact_index(tmp_path / "staged", model)
    assert compacted.search(QUERY, 2, first_stage=23).searched.scored == 23
    assert check_index(tmp_path / "staged", model).record.recall.videos == 23


def test_an_index_that_grows_beyond_the_limit_gets_a_first_stage(written, model, shards):
    assert written.basis is None
    grown, _ = append_videos(written.folder, model, shards, "dev", stage_above=20, queries=QUERIES)
    assert grown.basis is not None
    assert all(segment.codes is not None for segment in grown.segments)


def test_too_few_captions_leave_an_index_without_a_first_stage(tmp_path, model, shards):
    index = write_index(tmp_path / "index", model, shards, "train", stage_above=0, queries=["one", "two"])
    assert index.basis is None
    assert len(index.search(QUERY, 3)) == 3


def bytes_of(folder):
    """The bytes of all files of an index of one segment, or two, by kind, whatever the generation."""
    names = sorted(read_index_file(folder).names())
    first = min(int(name.partition("-")[0]) for name in names if "-" in name)

    def plain(name):
        number = f"{int(name.partition('-')[0]) - first}-" if "-" in name else ""
        return number + name.rpartition(".")[2]

    return {plain(name): (folder / name).read_bytes() for name in names}


def first_shards(shards, folder, count):
    """A dataset of the first shards of another."""
    shutil.copytree(shards.folder, folder)
    made = json.loads((folder / DATASET_FILE).read_text())
    made["shards"] = made["shards"][:count]
    write_json(folder / DATASET_FILE, made | {"digest": "0" * 16})
    return ShardSet(folder)


def test_an_index_built_in_pieces_has_the_bytes_of_one_built_at_once(tmp_path, model, shards):
    pieces, whole = tmp_path / "pieces", tmp_path / "whole"
    some = first_shards(shards, tmp_path / "some", 1)
    assert len(write_index(pieces, model, some, "train", stage_above=0, queries=QUERIES)) == 9
    assert append_videos(pieces, model, shards, "train")[1] == 9
    delete_videos(pieces, ["train4"])
    assert append_videos(pieces, model, shards, "train")[1] == 1
    compact_index(pieces, model)
    write_index(whole, model, shards, "train", fitted=pieces, stage_above=0)
    delete_videos(whole, ["train4"])
    append_videos(whole, model, shards, "train")
    compact_index(whole, model)
    assert bytes_of(whole) == bytes_of(pieces)
    assert read_index_file(whole).recall.videos == 18


def test_a_fit_is_taken_only_from_an_index_of_the_same_weights_that_has_one(written, tmp_path, model_of, shards, model):
    with pytest.raises(InputError, match="has no first stage"):
        write_index(tmp_path / "new", model, shards, "train", fitted=written.folder)
    other = model_of("model.head=xpool", *NO_REGULARISERS)
    with pytest.raises(ConfigError, match="other weights"):
        write_index(tmp_path / "new", other, shards, "train", fitted=written.folder)


def stopped_after(done, worker_class):
    """A worker that does so many tasks and then stops, and the tasks that were done."""
    tasks = []

    class Stopping(worker_class):
        def do(self, task):
            if len(tasks) == done:
                raise KeyboardInterrupt
            tasks.append(task)
            return super().do(task)

    return Stopping, tasks


@pytest.mark.parametrize("append", [False, True])
def test_an_interrupted_build_goes_on_with_what_is_left(tmp_path, model, shards, monkeypatch, append):
    folder, plain = tmp_path / "index", tmp_path / "plain"
    for place in (folder, plain):
        if append:
            write_index(place, model, shards, "dev", stage_above=5, queries=QUERIES)

    def work(place):
        if append:
            return append_videos(place, model, shards, "train")
        return write_index(place, model, shards, "train", stage_above=0, queries=QUERIES)

    work(plain)
    seen = []
    for done in (1, 1, 0):
        with monkeypatch.context() as patch:
            stopping, tasks = stopped_after(done, units.Worker)
            patch.setattr(build, "Worker", stopping)
            with pytest.raises(KeyboardInterrupt):
                work(folder)
        seen += tasks
        assert append == (folder / INDEX_FILE).exists()
    assert seen == [units.Encode(0), units.Encode(1)]
    with monkeypatch.context() as patch:
        rest, tasks = stopped_after(100, units.Worker)
        patch.setattr(build, "Worker", rest)
        work(folder)
    assert [type(task) for task in tasks] == [units.Code]
    assert bytes_of(folder) == bytes_of(plain)
    assert files(folder) == {INDEX_FILE, *read_index_file(folder).names()}


def test_codes_of_another_fit_are_not_taken_for_those_of_this_one(tmp_path, model, shards, monkeypatch):
    folder, fits = tmp_path / "index", [tmp_path / "one", tmp_path / "two"]
    for fit, queries in zip(fits, (QUERIES, QUERIES[:70]), strict=True):
        write_index(fit, model, shards, "dev", stage_above=0, queries=queries)
    with monkeypatch.context() as patch:
        patch.setattr(build, "lists_of", None)
        patch.setattr(build, "load_lists", None)  # stops it when the codes are made
        with pytest.raises(TypeError):
            write_index(folder, model, shards, "train", fitted=fits[0])
    assert len(list(folder.glob(".building-*/codes-*"))) == 1
    write_index(folder, model, shards, "train", fitted=fits[1])
    write_index(tmp_path / "plain", model, shards, "train", fitted=fits[1])
    assert bytes_of(folder) == bytes_of(tmp_path / "plain")


def test_what_another_change_left_unfinished_is_not_used(tmp_path, model, shards, monkeypatch):
    folder = tmp_path / "index"
    with monkeypatch.context() as patch:
        patch.setattr(build, "Worker", stopped_after(1, units.Worker)[0])
        with pytest.raises(KeyboardInterrupt):
            write_index(folder, model, shards, "train")
    index = write_index(folder, model, shards, "dev")
    assert {hit.video_id for hit in index.search(QUERY, 30)} == {f"dev{n}" for n in range(6)}
    assert files(folder) == {INDEX_FILE, *index.record.names()}


def as_version_3(folder):
    """Rewrite an index as version 3, whose codes are in the order of the videos, without lists."""
    record = json.loads((folder / INDEX_FILE).read_text())
    for segment in record["segments"]:
        path = folder / segment["codes"]
        codes = SegmentCodes.load(path, segment["videos"], 18, 4)
        SegmentCodes(codes.of_videos(torch.arange(len(codes)))).save(path)
        record["digests"][path.name] = file_digest(path)
    (folder / record.pop("lists")).unlink()
    del record["recall"]["probes"]
    write_json(folder / INDEX_FILE, record | {"version": 3})


def test_an_index_of_version_3_answers_grows_and_gets_lists_when_it_is_compacted(tmp_path, model, shards, monkeypatch):
    monkeypatch.setattr("gare.retrieval.index.FEW", 0)
    now = write_index(tmp_path / "index", model, shards, "train", stage_above=0, queries=QUERIES)
    found = answers(now, 3, first_stage=6)
    as_version_3(tmp_path / "index")
    former = open_index(tmp_path / "index")
    assert former.lists is None
    assert answers(former, 3, first_stage=6) == found
    check_index(tmp_path / "index", model)
    delete_videos(tmp_path / "index", ["train1"])
    grown, _ = append_videos(tmp_path / "index", model, shards, "dev")
    assert (grown.lists, len(grown)) == (None, 23)
    assert grown.search(QUERY, 3, first_stage=6).searched.scored == 6
    compacted = compact_index(tmp_path / "index", model)
    assert len(compacted.lists) == 4
    assert answers(compacted, 3, first_stage=22) == answers(grown, 3, first_stage=22)


def test_reading_some_lists_finds_what_is_in_them_and_reads_all_where_they_hold_too_few(
    tmp_path, model, shards, monkeypatch
):
    monkeypatch.setattr("gare.retrieval.index.FEW", 0)
    index = write_index(tmp_path / "index", model, shards, "train", stage_above=0, queries=QUERIES)
    codes, lists = index.segments[0].codes, index.lists
    query = codes.of_videos(torch.tensor([3])).vectors()[0]
    allowed = [index.segments[0].alive]
    read = [codes.rows[codes.starts[n] : codes.starts[n + 1]].tolist() for n in lists.best(query, 2).tolist()]
    inside = [row for rows in read for row in rows]
    everything = codes.scan(query)
    ordered = everything[0][everything[1].argsort(descending=True)].tolist()
    expected = sorted([row for row in ordered if row in inside][:4])
    assert index.best(query, allowed, 4, 2)[0].tolist() == expected
    assert index.best(query, allowed, len(inside) + 1, 2)[0].tolist() == sorted(ordered[: len(inside) + 1])
    some = [index.segments[0].alive & (np.arange(18) % 2 == 0)]
    expected = sorted([row for row in ordered if row % 2 == 0][:4])
    assert index.best(query, some, 4)[0].tolist() == expected


def test_checking_names_the_file_that_is_not_what_was_written(written, model):
    folder = written.folder
    assert check_index(folder, model).record == written.record
    name = written.record.segments[0].records
    content = bytearray((folder / name).read_bytes())
    content[100] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is damaged"):
        check_index(folder, model)


def test_a_missing_segment_is_said_and_the_rest_answers(written, model, shards, capsys):
    opened, _ = append_videos(written.folder, model, shards, "dev")
    (written.folder / opened.record.segments[1].records).unlink()
    index = open_index(written.folder)
    searched = index.search(QUERY, 3).searched
    assert (searched.missing, searched.partial) == (6, True)
    assert "6 videos cannot be read" in str(searched)
    with pytest.raises(InputError, match="cannot be changed"):
        compact_index(written.folder, model)


def test_a_folder_of_other_things_is_left_alone(tmp_path, model, shards):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other things and no index\.json"):
        write_index(tmp_path, model, shards, "train")
    with pytest.raises(InputError, match="not an index"):
        delete_videos(tmp_path, ["x"])


def former_index(folder, model, shards):
    """An index of version 2 of the training videos."""
    part = shards.split("train")
    videos = encode_videos(model.model, part, model.config.data, 4)
    VideoIndex.build(model.model, videos.frames, videos.frame_mask).save(folder / "vectors.safetensors")
    record = {"version": 2, "checkpoint": model.name, "weights_sha256": model.weights, "dataset_digest": shards.digest}
    listed = [{"video_id": video.video_id, "uri": video.uri} for video in part.videos]
    write_json(folder / INDEX_FILE, record | {"split": "train", "videos": listed})


@pytest.mark.parametrize("overrides", [(), ("model.context=words",), ("model.increment=none",)], ids=str)
def test_an_index_of_version_2_answers_and_is_replaced_when_it_is_made_again(tmp_path, model_of, shards, overrides):
    model = model_of(*overrides)
    former_index(tmp_path, model, shards)
    found = {video_id: score for video_id, score, _ in answers(open_index(tmp_path))}
    assert found == pytest.approx(own_scores(model, shards), abs=1e-5)
    with pytest.raises(InputError, match=r"version 2; this software changes 3 and 4\. Make it again"):
        delete_videos(tmp_path, ["x"])
    index = write_index(tmp_path, model, shards, "train")
    assert files(tmp_path) == {INDEX_FILE, *index.record.names()}


def test_a_rebuild_that_is_interrupted_keeps_an_index_that_it_cannot_read(tmp_path, model, shards):
    write_index(tmp_path, model, shards, "train")
    path, before = tmp_path / INDEX_FILE, files(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(KeyboardInterrupt), next_generation(tmp_path, new=True):
        raise KeyboardInterrupt
    assert files(tmp_path) == before


def test_a_record_without_a_part_of_its_first_stage_is_damaged(tmp_path, model, shards):
    write_index(tmp_path, model, shards, "train", stage_above=0, queries=QUERIES)
    record = json.loads((tmp_path / INDEX_FILE).read_text())
    segments = [segment | {"codes": None} for segment in record["segments"]]
    curve = record["recall"] | {"captions": record["recall"]["captions"][1:]}
    for wrong, says in (
        ({"segments": segments}, "first stage is missing"),
        ({"recall": None}, "first stage is missing"),
        ({"recall": curve}, "recall curve"),
    ):
        write_json(tmp_path / INDEX_FILE, record | wrong)
        with pytest.raises(InputError, match=rf"is damaged \(.*{says}"):
            open_index(tmp_path)


def test_a_damaged_index_of_version_2_is_refused(tmp_path, model, shards):
    former_index(tmp_path, model, shards)
    record = json.loads((tmp_path / INDEX_FILE).read_text())
    write_json(tmp_path / INDEX_FILE, record | {"videos": record["videos"][1:]})
    with pytest.raises(InputError, match="does not name the 18 videos"):
        open_index(tmp_path)
    vectors = (tmp_path / "vectors.safetensors").read_bytes()
    (tmp_path / "vectors.safetensors").write_bytes(vectors[: len(vectors) // 2])
    with pytest.raises(InputError, match=r"Cannot read .*vectors.safetensors"):
        open_index(tmp_path)
    write_json(tmp_path / INDEX_FILE, {"version": 2})
    with pytest.raises(InputError, match="is damaged"):
        open_index(tmp_path)


def reopened(folder, model):
    return SearchIndex.of(folder, read_index_file(folder), model)


def killed_at(step, work):
    """Run ``work`` in a child that is killed before its ``step``-th change on disk; True if it came to the end."""
    child = os.fork()
    if child == 0:
        left = [step]

        def counted(function):
            def call(*args, **named):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return function(*args, **named)

            return call

        try:
            for name in ("fsync", "unlink", "replace"):
                setattr(os, name, counted(getattr(os, name)))
            work()
        except BaseException:  # noqa: BLE001 - nothing of the child may go on into pytest
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 0


@pytest.mark.parametrize("change", ["append", "append with a stage", "delete", "compact"])
def test_a_kill_anywhere_leaves_the_last_generation_or_the_next(written, model, shards, tmp_path, change):
    if change == "compact":
        delete_videos(written.folder, ["train3"])
    folder, before = tmp_path / "killed", answers(reopened(written.folder, model))
    work = {
        "append": lambda: append_videos(folder, model, shards, "dev"),
        "append with a stage": lambda: append_videos(folder, model, shards, "dev", stage_above=0, queries=QUERIES),
        "delete": lambda: delete_videos(folder, ["train5"]),
        "compact": lambda: compact_index(folder, model),
    }[change]
    shutil.copytree(written.folder, folder)
    work()
    after = answers(reopened(folder, model))
    step, ended, seen = 0, False, set()
    while not ended:
        shutil.rmtree(folder)
        shutil.copytree(written.folder, folder)
        ended = killed_at(step, work)
        found = answers(reopened(folder, model))
        assert found in (before, after), step
        seen.add(read_index_file(folder).generation)
        if step % 5 == 0 and found == before:
            work()  # the same command again, over what the kill left
            assert answers(reopened(folder, model)) == after
            assert files(folder) == {INDEX_FILE, *read_index_file(folder).names()}
        step += 5 if change == "append with a stage" else 1
    assert step > 8
    assert len(seen) == 2


def test_a_killed_first_build_leaves_a_folder_that_it_can_be_made_in(tmp_path, model, shards):
    folder = tmp_path / "index"
    for step in range(0, 12, 3):
        assert not killed_at(step, lambda: write_index(folder, model, shards, "train"))
        if not (folder / INDEX_FILE).exists():
            with pytest.raises(InputError, match="not an index"):
                open_index(folder)
    write_index(folder, model, shards, "train")
    assert len(open_index(folder)) == 18
