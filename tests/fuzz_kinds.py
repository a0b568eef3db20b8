"""The files that the project reads, each whole in a folder of its own, and how the commands read them."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gare.api.compare import cautions_of
from gare.common.files import write_json
from gare.common.storage import Folder
from gare.config.tree import load_config, load_saved, to_yaml, with_overrides
from gare.data.shards import ShardSet
from gare.evaluation.metrics.paired import compare_tables
from gare.evaluation.metrics.query_table import Queries, QueryTable, read_queries, write_queries
from gare.evaluation.metrics.ranking import Ranking
from gare.evaluation.results import METRICS_FILE
from gare.launch.local import fit_local
from gare.model.checkpoint import load_model
from gare.model.clip_source import load_clip
from gare.objective import SINGLE
from gare.retrieval.build import write_index
from gare.retrieval.folder import INDEX_FILE
from gare.retrieval.model import IndexModel
from gare.retrieval.opening import open_index
from gare.retrieval.windows import with_seconds
from gare.runs.checkpoints import TRAINER_FILE, restore
from gare.runs.inputs import open_data
from gare.runs.layout import RUN_FILE
from gare.runs.run import outdated
from gare.runs.selection import selection
from gare.runs.state import last_epoch, progress, read_history, read_state, resolve_checkpoint, summary
from gare.schema import MANIFEST
from gare.tracking.record import Record, read_handle, read_record, write_record
from gare.tracking.registry import check_index
from gare.tracking.rows import Tail
from gare.training.frozen import with_embeddings
from gare.training.loop import build_model
from gare.training.scaler_and_average import Extras
from pipelines.dataset.inspection.contents import read_contents
from pipelines.dataset.ledger import Damaged, Ledger, read_ledger
from pipelines.dataset.opening import existing_output, open_output
from pipelines.dataset.tools.check import validate
from pipelines.dataset.tools.dataset import open_dataset
from pipelines.dataset.tools.target import UNFINISHED_FILE, Target
from pipelines.manifest.benchmarks import BENCHMARKS
from pipelines.manifest.benchmarks.annotations import Options
from pipelines.manifest.benchmarks.build import make_manifest
from pipelines.manifest.load import load_manifest
from pipelines.manifest.rows import write_manifest
from pipelines.manifest.sources.options import SourceOptions
from pipelines.manifest.sources.tables import from_csv, from_jsonl, from_parquet
from pipelines.synthetic.corpus import CORPUS_FILE
from tests import toy
from tests.fuzz import Kind, finite
from tests.fuzz_others import checkpoints_of_others, left_behind, packed
from tests.made_shards import RECIPE, made_row, make_dataset
from tune.comparison import compare
from tune.opening import open_record
from tune.record import SWEEP_FILE, Launch

ROWS = [
    {"video_id": f"v{n}", "uri": f"v{n}.mp4", "split": "train" if n else "test", "captions": [f"a cat {n}", "on a mat"],
     "start_s": 0.5, "end_s": 2.5, "attributes": [("colour", "red")]}
    for n in range(6)
]  # fmt: skip


def every_kind(folder: Path) -> Iterator[Kind]:
    """All kinds, each with its whole file."""
    for make in (
        manifests, annotations, settings, datasets, left_behind, evaluations, runs, models, checkpoints_of_others,
    ):  # fmt: skip
        place = folder / make.__name__
        place.mkdir()
        yield from make(place)


def from_parquet_bytes(content: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(content))


def from_arrow_bytes(content: bytes) -> pa.Table:
    return pa.ipc.open_file(pa.BufferReader(content)).read_all()


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


PARQUET = {"table": from_parquet_bytes, "write": parquet}
ARROW = {"table": from_arrow_bytes, "write": arrow}


# What prepare begins with


def manifests(folder: Path) -> Iterator[Kind]:
    table = pa.Table.from_pylist(ROWS, MANIFEST)
    whole = folder / "manifest.parquet"
    write_manifest(table, whole)

    def written(path: Path) -> Callable[[], Any]:
        return lambda: load_manifest(path).to_pylist()

    def sane(rows: list[dict[str, Any]]) -> bool:
        texts = [text for row in rows for text in row["captions"]]
        return bool(rows) and all(rows) and all(len(text) > 1 for text in texts if text not in "0123456789")

    yield Kind("manifest Parquet", whole, written(whole), "columns", sane, **PARQUET)
    lines = folder / "manifest.jsonl"
    lines.write_text("".join(json.dumps(row | {"attributes": dict(row["attributes"])}) + "\n" for row in ROWS))
    yield Kind("manifest JSON lines", lines, written(lines), "lines", letters_are_no_captions)
    cells = folder / "manifest.csv"
    cells.write_text("video_id,uri,split,captions,start_s,end_s\n" + "".join(
        f"v{n},v{n}.mp4,train,a cat {n},0.5,2.5\n" for n in range(6)))  # fmt: skip
    yield Kind("manifest CSV", cells, written(cells), "csv")
    yield from packed(folder, ROWS, letters_are_no_captions)
    options = SourceOptions(columns={"video_id": "uri"}, split="train", attributes=("start_s",))

    def source(make: Any, path: Path) -> Callable[[], Any]:
        def read() -> Any:
            made = make(path, options)
            write_manifest(made.table, folder / "made.parquet")
            return made.table.to_pylist()

        return read

    for name, make, form in (("source.csv", from_csv, "csv"), ("source.jsonl", from_jsonl, "lines")):
        path = shutil.copy(cells if form == "csv" else lines, folder / name)
        yield Kind(f"source {name}", Path(path), source(make, Path(path)), form, letters_are_no_captions)
    path = folder / "source.parquet"
    shutil.copy(whole, path)
    yield Kind("source Parquet", path, source(from_parquet, path), "columns", **PARQUET)


def letters_are_no_captions(rows: list[dict[str, Any]]) -> bool:
    return not any(list("text") == row["captions"] for row in rows)


def annotations(folder: Path) -> Iterator[Kind]:
    videos = folder / "videos"
    videos.mkdir()
    for name in (
        "video0.mp4",
        "video1.mp4",
        "video2.mp4",
        "v_a.mp4",
        "v_b.mp4",
        "v_c.mp4",
        "v_d.mp4",
        "1_x.avi",
        "film_0.avi",
    ):
        (videos / name).touch()

    def kind(benchmark: str, name: str, form: str, files: dict[str, Any], **options: Any) -> Kind:
        place = folder / f"{benchmark}-{name}"
        place.mkdir()
        for file, content in files.items():
            data = (
                content
                if isinstance(content, bytes)
                else (content if isinstance(content, str) else json.dumps(content)).encode()
            )
            (place / file).write_bytes(data)

        def read() -> Any:
            made = make_manifest(BENCHMARKS[benchmark], place, videos, Options(**options))
            return [made.table.to_pylist(), {k: asdict(v) for k, v in made.counts.items()}]

        return Kind(f"{benchmark} {name}", place / name, read, form)

    data = {
        "videos": [{"video_id": f"video{n}", "category": n, "split": "train"} for n in range(3)],
        "sentences": [{"video_id": f"video{n}", "caption": f"a man {n}"} for n in (0, 0, 1, 2)],
    }
    msrvtt = {
        "MSRVTT_data.json": data, "MSRVTT_train.9k.csv": "video_id\nvideo0\nvideo1\n",
        "MSRVTT_JSFUSION_test.csv": "key,video_id,sentence\nret0,video2,a man sings\n",
    }  # fmt: skip
    for name, form in (
        ("MSRVTT_data.json", "json"),
        ("MSRVTT_train.9k.csv", "csv"),
        ("MSRVTT_JSFUSION_test.csv", "csv"),
    ):
        yield kind("msrvtt", name, form, msrvtt, dev_share=0.5)
    didemo = [{"video": "1_x.avi", "description": f"a dog {n}", "times": [[0, 1], [0, 1], [2, 3]]} for n in range(3)]
    yield kind("didemo", "train_data.json", "json", {"train_data.json": didemo}, moments=True, dev_share=0.0)
    activitynet = {
        f"v_{n}": {"duration": 30.0, "timestamps": [[0.5, 9.5], [9, 20]], "sentences": ["a man", "a dog"]}
        for n in "abcd"
    }
    listed = {"train.json": activitynet, "train_ids.json": ["v_a", "v_b", "v_c", "v_d"]}
    for name in listed:
        yield kind("activitynet", name, "json", listed, moments=True, dev_share=0.5)
    spoken = pickle.dumps({f"video{n}": [["a", "man"], ["a", "dog"]] for n in range(3)}, protocol=2)
    msvd = {"raw-captions.pkl": spoken, "train_list.txt": "video0\nvideo1\n", "test_list.txt": "video2\n"}
    for name in ("raw-captions.pkl", "train_list.txt"):
        yield kind("msvd", name, "bytes", msvd)
    lsmdc = "film_0\t00:1\t00:2\t00:1\t00:2\tSomeone waits.\n" * 2
    yield kind("lsmdc", "LSMDC16_annos_training.csv", "bytes", {"LSMDC16_annos_training.csv": lsmdc}, dev_share=0.0)


def settings(folder: Path) -> Iterator[Kind]:
    config = folder / "config.yaml"
    base = load_config(None, ["train.epochs=3", "runtime.name=a"])
    config.write_text(to_yaml(base))
    yield Kind("config.yaml", config, lambda: to_yaml(load_config(config)), "yaml")
    sweep = folder / "sweep.yaml"
    sweep.write_text(
        "sweep:\n  trials: 4\n  seeds: [0, 1]\n  space:\n    objective.trust_region.weight: {grid: [0, 0.01]}\n"
    )

    def planned() -> Any:
        from tune.space import expand

        return [asdict(trial) for trial in expand(load_config(None, sweep=sweep))]

    yield Kind("sweep.yaml", sweep, planned, "yaml")


# What prepare makes


def datasets(folder: Path) -> Iterator[Kind]:
    made = make_dataset(folder / "made", [made_row(f"v{n}", "train" if n else "test") for n in range(5)], failed=["w"])
    place = Folder.at(made)

    def trained_on() -> Any:
        dataset = ShardSet(made)
        splits = {name: dataset.split(name) for name in dataset.splits}
        frames = {n: [s.frames(i, 2).sum().item() for i in range(len(s))] for n, s in splits.items()}
        times = [s.timestamps(i) for s in splits.values() for i in range(len(s))]
        return [dataset.digest, dataset.side, dataset.complete, dataset.rows(), dataset.repeated(), frames, times]

    def verified() -> Any:
        dataset = open_dataset(place)
        return [repr(tally) for tally in validate([dataset])]

    def inspected() -> Any:
        found = read_contents(made)
        return [[asdict(unit) for unit in found.units], found.unfinished, found.damaged]

    shard = min((made / "shards").iterdir())
    yield Kind("shard, trained on", shard, trained_on, "columns", **ARROW)
    yield Kind("shard, verified", shard, verified, "columns", whole=True, **ARROW)
    yield Kind("dataset.json", made / "dataset.json", lambda: [trained_on(), once(verified)], "json")
    yield Kind("dataset.json, inspected", made / "dataset.json", inspected, "json")
    yield Kind("recipe.json", made / "recipe.json", lambda: str(existing_output(made).recipe), "json")

    def taken_up() -> Any:
        output = existing_output(made)
        return [[output.rows(unit) for unit in range(output.units())], inspected()]

    yield Kind("manifest.arrow", made / "manifest.arrow", taken_up, "columns", **ARROW)

    def grown() -> Any:
        rows = pa.Table.from_pylist([{k: r.get(k) for k in MANIFEST.names} for r in kept], MANIFEST)
        return open_output(made, rows, RECIPE).units()

    kept = [row for unit in range(2) for row in existing_output(made).rows(unit)]
    yield Kind("manifest.arrow, grown", made / "manifest.arrow", grown, "columns", **ARROW)
    ledger = min((made / "ledger").iterdir())

    def state() -> Any:
        found = Ledger(existing_output(made)).state(0)
        if isinstance(found, Damaged):
            raise found
        return [
            found.table.to_pylist(),
            [asdict(one) for one in found.shards],
            found.generation,
            read_ledger(existing_output(made), 0),
        ]

    yield Kind("ledger part", ledger, state, "columns", **PARQUET)
    write_json(folder / UNFINISHED_FILE, {"made_from": ["a"], "digest": "b"})
    (folder / "shards").mkdir()
    target = Target(Folder.at(folder), {"made_from": ["a"], "digest": "b"})
    yield Kind("unfinished.json", folder / UNFINISHED_FILE, target.finished, "json")
    from pipelines.synthetic.corpus import _claim

    corpus = folder / "corpus"
    corpus.mkdir()
    write_json(corpus / CORPUS_FILE, {"seed": 0, "videos": 4})
    yield Kind("corpus.json", corpus / CORPUS_FILE, lambda: _claim(corpus, {"seed": 0, "videos": 4}), "json")


def once(read: Callable[[], Any]) -> Any:
    """The sentence that a second reader refuses with, where the first took the file."""
    from gare.common.errors import GareError

    try:
        return read()
    except GareError as error:
        return str(error)


# What evaluating makes


def evaluations(folder: Path) -> Iterator[Kind]:
    owner = np.array([0, 0, 2])
    ranking = Ranking("t2v", np.array([1, 2, 2]), owner, 3)
    queries = {"t2v": Queries(ranking, ["x", "x", "z"], ["a cat", "b", "c"], [["x", "y"]] * 3, [[0.75, 0.5]] * 3)}
    table = QueryTable("test", "abc", "pessimistic", queries)
    other = folder / "other.parquet"
    path = folder / "ranks.parquet"
    write_queries(path, table)
    write_queries(other, table)

    def compared() -> Any:
        found = compare_tables(read_queries(path), read_queries(other), level=0.95, resamples=100, seed=0)
        return [asdict(one) for one in found]

    yield Kind("ranks.parquet", path, compared, "columns", finite, **PARQUET)
    write_json(folder / METRICS_FILE, {"selection": {"rule": "dev", "cautions": ["a little too good"]}, "t2v/R@1": 5.0})
    yield Kind("metrics.json", folder / METRICS_FILE, lambda: cautions_of(folder), "json")


# What training makes


def runs(folder: Path) -> Iterator[Kind]:
    shards = toy.make_shards(folder / "shards", {"train": 8, "dev": 4, "test": 4})
    clip = toy.make_toy_clip(folder / "clip")
    config = toy.toy_config(clip, shards, folder / "runs", "train.ema=0.9", "train.epochs=2")
    run = Path(fit_local(config, quiet=True).directory)
    checkpoint = resolve_checkpoint(run)
    dataset = ShardSet(shards)
    history = run / "history.jsonl"

    def recorded() -> Any:
        state = read_state(run)
        assert state is not None
        came = summary(config, state, resumed=(state.epoch, state.step))
        said = progress(state.epoch, state.step)
        return [asdict(state), asdict(came), state.stages(config), state.epochs(config), said, outdated(config, state),
                asdict(selection(resolve_checkpoint(run), config, dataset, dataset.split("test")))]  # fmt: skip

    def sensible(found: Any) -> bool:
        state = found[0]
        return (
            finite(found)
            and min(state["epoch"], state["batch"], state["step"], *found[2]) >= 0
            and "\ud800" not in str(found)
        )

    yield Kind("run.json", run / RUN_FILE, recorded, "json", sensible)

    def curves() -> Any:
        from tune.comparison.settings import read_curves
        from tune.record import Trial

        trial = Trial("a", {}, str(run), "done")
        rows = read_history(history)
        tail = [row for rows in Tail(history).batches() for row in rows]
        return [
            [asdict(one) for one in read_curves([trial], "dev/t2v/R@1")],
            len(rows),
            len(tail),
            len(last_epoch(rows)),
        ]

    yield Kind("history.jsonl", history, curves, "lines", finite)
    made = checkpoint / "checkpoint.json"
    yield Kind(
        "checkpoint.json", made, lambda: asdict(selection(checkpoint, config, dataset, dataset.split("test"))), "json"
    )
    handle = run / "mlflow.json"
    write_json(handle, {"uri": "sqlite:///a.db", "experiment": "gare", "run_id": "abc"})
    yield Kind("mlflow.json", handle, lambda: str(read_handle(run)), "json")
    told = folder / "told"
    told.mkdir()
    record = Record(uri="sqlite:///a.db", experiment="gare", run_id="abc", tags={"a": "b"}, begun_ms=5)
    record.add_metrics({"best/dev": 1.5}, 3)
    write_record(told, record)
    yield Kind("tracking.json", told / "tracking.json", lambda: str(read_record(told)), "json")
    yield Kind("config.yaml of a run", run / "config.yaml", lambda: to_yaml(load_saved(run / "config.yaml")), "yaml")

    sweep_config = load_config(None, [
        *toy.OVERRIDES, f"model.clip={clip}", f"runtime.shards={shards}", f"runtime.output={folder}",
        "runtime.name=sweep",
        "sweep.space={objective.trust_region.weight: {grid: [0, 0.01]}}", "sweep.seeds=[0,1]",
    ])  # fmt: skip
    place = folder / "sweep"
    place.mkdir()
    ledger, resolved = open_record(sweep_config, place, {"dataset_digest": dataset.digest})
    from tune.opening import missing
    from tune.record import Trial

    for number, planned in enumerate(missing(resolved, ledger)):
        ledger.trials.append(Trial(
            f"trial-{number:03d}", dict(planned.overrides), str(run), "done", {"dev/t2v/R@1": 20.0 + number},
            best=str(checkpoint), seconds=3.0, train_s=2.0, epochs=2, attempts=1,
        ))  # fmt: skip
    ledger.launches.append(Launch(2, 9.0))
    ledger.write(place)

    def compared() -> Any:
        found = compare(place, folder / "comparison")
        again, _ = open_record(sweep_config, place, {"dataset_digest": dataset.digest})
        return [
            found.as_json(),
            [asdict(trial) for trial in again.trials],
            len(missing(sweep_config, again)),
            again.overhead(),
        ]

    yield Kind("sweep.json", place / SWEEP_FILE, compared, "json", finite)
    yield from checkpoints(folder, config, run, dataset)
    yield embeddings(with_overrides(config, {"train.freeze": ["image_tower"], "runtime.name": "frozen"}))


def embeddings(config: Any) -> Kind:
    data = open_data(config)
    model, tokenizer, _ = build_model(config, data.shards, torch.device("cpu"))

    def read() -> Any:
        made = with_embeddings(data, model, tokenizer, config, SINGLE).train
        assert made.embedded is not None
        assert made.embedded.frames is not None
        return [made.embedded.frames[video.video_id].tolist() for video in made.videos]

    read()
    path = next(Path(config.runtime.output).glob("embeddings/*/*.arrow"))
    return Kind("embeddings", path, read, "bytes", whole=True)


def checkpoints(folder: Path, config: Any, run: Path, dataset: ShardSet) -> Iterator[Kind]:
    state = read_state(run)
    assert state is not None
    last = run / "checkpoints" / str(state.last)
    model, _, optimiser = build_model(config, dataset, torch.device("cpu"))
    extras = Extras(model, config)

    def resumed() -> Any:
        restore(run, state, extras.parts(model, optimiser))
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        optimiser.step()
        assert extras.ema is not None
        extras.ema.update()
        return [
            float(sum(p.double().sum() for p in model.parameters())),
            sorted(map(str, optimiser.state_dict()["param_groups"])),
        ]

    yield Kind("trainer.pt", last / TRAINER_FILE, resumed, "pickle", finite)

    def loaded() -> Any:
        return float(sum(p.double().sum() for p in load_model(last).parameters()))

    yield Kind("checkpoint model.safetensors", last / "model.safetensors", loaded, "tensors", finite)
    yield Kind("checkpoint config.yaml", last / "config.yaml", loaded, "yaml", finite)
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        yield Kind(f"checkpoint {name}", last / "clip" / name, loaded, "json", finite)
    index = folder / "index"
    made = IndexModel.of_checkpoint(last, load_model(last), config)
    queries = [f"{video} {number}" for number in range(10) for video in ("a red square", "blue", "left", "high", "low")]
    files = write_index(index, made, dataset, "train", stage_above=0, queries=[*queries, *map(str, range(50))]).record

    weights = json.loads((index / INDEX_FILE).read_text())["weights_sha256"]

    def searched() -> Any:
        opened = open_index(index)
        texts = opened.encode("a red square left")
        timed = with_seconds(opened, opened.search("a red square left", 3), texts)
        pictures = [opened.segments[s].media.picture(row, 0) for s, row in timed.places if opened.segments[s].media]
        hits = [*timed, *opened.search("a red square", 2, first_stage=2)]
        return [
            [asdict(hit) for hit in hits],
            [hashlib.sha256(picture or b"").hexdigest() for picture in pictures],
            check_index(index, weights),
        ]

    def answered(found: Any) -> bool:
        return finite(found) and all(
            isinstance(hit["video_id"], str) and isinstance(hit["uri"], str) for hit in found[0]
        )

    yield Kind("index.json", index / INDEX_FILE, searched, "json", answered)
    segment = files.segments[0]
    yield Kind("index records", index / segment.records, searched, "bytes", answered)
    yield Kind("index videos", index / segment.about, searched, "bytes", answered)
    yield Kind("index media", index / str(segment.media), searched, "bytes", answered)
    yield Kind("index codes", index / str(segment.codes), searched, "tensors", answered)
    yield Kind("index basis", index / str(files.basis), searched, "tensors", answered)


def models(folder: Path) -> Iterator[Kind]:
    clip = toy.make_toy_clip(folder / "clip")

    def loaded() -> Any:
        return float(sum(p.double().sum() for p in load_clip(str(clip))[0].parameters()))

    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        yield Kind(f"CLIP {name}", clip / name, loaded, "json", finite)
    yield Kind("CLIP model.safetensors", clip / "model.safetensors", loaded, "tensors", finite)
