"""More files that the project reads: packed ones, checkpoints of others, and what processes leave for each other."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gare.common.dataset_file import read_dataset_file
from gare.common.locks import LOCK_FILE, lease
from gare.common.storage import Folder
from gare.data.cache import Cache, entries, hold
from gare.data.cache.entries import NOTE_FILE, _note
from gare.model.archive import read_archive
from gare.model.open_clip import stated_for
from gare.model.released import build_clip, build_gare, convert, settings_of
from pipelines.manifest.load import load_manifest
from tests import made_cache, openai_clip
from tests.fuzz import Kind, finite
from tests.unit.tune.made_sweep import SPACE, TR, sweep_config, trial
from tune.record import SweepRecord
from tune.study import STUDY_FILE, StudySearch

SIZES = ("input_resolution", "context_length", "vocab_size")
CONFIG = {
    "model_cfg": {
        "embed_dim": openai_clip.DIM,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 12, "vocab_size": 40, "width": 64, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.25, 0.5], "std": [0.5, 0.5, 0.25]},
}


def packed(folder: Path, rows: list[dict[str, Any]], captions: Callable[[Any], bool]) -> Iterator[Kind]:
    """Gzipped manifests."""
    lines = "".join(json.dumps(row | {"attributes": dict(row["attributes"])}) + "\n" for row in rows)
    cells = "video_id,uri,split,captions\n" + "".join(f"v{n},v{n}.mp4,train,a cat {n}\n" for n in range(6))
    for name, text, form in (("manifest.jsonl.gz", lines, "packed lines"), ("manifest.csv.gz", cells, "packed csv")):
        path = folder / name
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
        yield Kind(name, path, lambda path=path: load_manifest(path).to_pylist(), form, captions)


def left_behind(folder: Path) -> Iterator[Kind]:
    """The lock of a dead process, the notes of a cache, and the study of a sweep that was killed."""

    def taken_over() -> Any:
        with lease(Folder.at(folder), beat_s=0.02, dead_s=0.04, settle_s=0.0):
            return True

    (folder / LOCK_FILE).write_text(json.dumps({"owner": "x", "host": "y", "pid": 1, "beat": 3}))
    yield Kind("lease", folder / LOCK_FILE, taken_over, "json")

    place, digest = made_cache.make_dataset(folder / "dataset")
    cache = Cache(str(folder / "cache"), mounted=True)
    copy = cache.root / digest
    made_cache.copy(place, cache)

    def listed() -> Any:
        copies = [(one.source, one.state) for one in entries(cache.root)]
        made_cache.copy(place, cache)
        made_cache.same_files(place, copy)
        return [copies, _note(copy)]

    def sane(found: Any) -> bool:
        return isinstance(found[1][0], str) and 0 <= found[1][1] < 2**63

    yield Kind("copy.json", copy / NOTE_FILE, listed, "json", sane)

    def whole() -> Any:
        hold(Folder.at(place), cache).close()
        made_cache.same_files(place, copy)
        return read_dataset_file(Folder.at(copy)) == read_dataset_file(Folder.at(place))

    yield Kind("dataset.json of a copy", copy / "dataset.json", whole, "json", whole=True)

    config = sweep_config(trials=6, search="optuna", space=SPACE | {TR: {"choice": [0, 1e-4, 0.01]}})
    ledger = SweepRecord("weights", "k", {}, [trial(0, 50.0), trial(1, 40.0), trial(2, None, "failed")])
    study = folder / STUDY_FILE

    def searched() -> Any:
        rows = SweepRecord("weights", "k", {}, list(ledger.trials))
        search = StudySearch(config, folder, rows, lambda _: 0, lambda index: {"trial": index})
        told = search._ot_study.get_trials()
        for path in folder.glob(f"{STUDY_FILE}.*"):
            path.unlink()
        return [search.remaining, sorted((str(one.user_attrs), one.state.name, repr(one.value)) for one in told)]

    searched()
    yield Kind("search.db", study, searched, "bytes")


def checkpoints_of_others(folder: Path) -> Iterator[Kind]:
    """Files of torch.save and safetensors that gare import-checkpoint takes."""
    torch.manual_seed(0)
    clip = openai_clip.Clip().eval()
    state = {name: tensor.clone() for name, tensor in clip.state_dict().items() if name not in SIZES}

    def imported(path: Path) -> Callable[[], Any]:
        def read() -> Any:
            archive = read_archive(path)
            converted = convert(archive.tensors, stated_for(path, {}))
            config = settings_of(converted, {})
            model = build_gare(converted, config) if converted.kind == "gare" else build_clip(converted)
            sizes = sorted((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())
            return [archive.kind, float(sum(p.detach().double().sum() for p in model.parameters())), sizes]

        return read

    openai = folder / "openai.pt"
    torch.save(dict(clip.state_dict()), openai)
    yield Kind("OpenAI .pt", openai, imported(openai), "pickle", finite)
    old = folder / "old.pt"
    torch.save(dict(clip.state_dict()), old, _use_new_zipfile_serialization=False)
    yield Kind("OpenAI .pt, old format", old, imported(old), "bytes", finite)
    traced = folder / "traced.pt"
    torch.jit.save(torch.jit.trace(clip, openai_clip.inputs()), traced)
    yield Kind("OpenAI TorchScript", traced, imported(traced), "bytes", finite)
    released = folder / "released.bin"
    torch.save(openai_clip.released(clip), released)
    yield Kind("released GARE", released, imported(released), "pickle", finite)
    for name in ("training", "weights", "config"):
        (folder / name).mkdir()
        (folder / name / "open_clip_config.json").write_text(json.dumps(CONFIG))
    training = folder / "training/epoch_3.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, training)
    yield Kind("open_clip training file", training, imported(training), "pickle", finite)
    weights = folder / "weights/open_clip_model.safetensors"
    save_file(state, weights)
    yield Kind("open_clip safetensors", weights, imported(weights), "tensors", finite)
    beside = Path(shutil.copy(weights, folder / "config"))
    yield Kind("open_clip_config.json", beside.with_name("open_clip_config.json"), imported(beside), "json", finite)
