"""Write the corpus: videos in worker processes, then the captions file."""

from __future__ import annotations

import csv
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from gare.common.errors import InputError, RunError
from gare.common.files import atomic_file, make_folder, write_json
from gare.common.nodes import usable_cpus
from gare.common.records import load_json
from gare.common.redact import shown
from pipelines.synthetic.encode import encode
from pipelines.synthetic.events import Difficulty, plan_events
from pipelines.synthetic.plan import SPLITS, Clip, plan

VERSION: Final = 1
"""Increase this whenever the same seed would give different files."""

CORPUS_FILE: Final = "corpus.json"
CAPTIONS_FILE: Final = "captions.csv"
VIDEO_FOLDER: Final = "videos"
COLUMNS: Final = ("file", "video_id", "caption", "split")
"""Columns of captions.csv, followed by the attributes of the clips."""

CHUNK_VIDEOS: Final = 16


@dataclass(frozen=True)
class CorpusReport:
    """Contents of a corpus; ``seconds``: time this call took; ``reused``: the corpus was already there."""

    splits: dict[str, int]
    captions: int
    bytes: int
    seconds: float
    captions_file: Path
    reused: bool


def write_corpus(
    out: Path,
    videos: int,
    seed: int = 0,
    processes: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    events: Difficulty | None = None,
) -> CorpusReport:
    """Write ``videos`` captioned clips into the folder ``out``; the same arguments give the same bytes.

    ``events``: write clips with several objects, of this difficulty; None: one object per clip.
    ``processes``: number of encoding processes, one per usable core if None; 1 encodes in this process. More than one
    are spawned, so call this from a script under ``if __name__ == "__main__"``.
    ``on_progress`` receives the number of videos written so far.

    A finished corpus of the same seed and size is left as it is; an interrupted one is written again. Raises
    InputError for too few videos, a negative seed, or a folder that holds anything else; RunError if a worker dies.
    """
    started = time.monotonic()
    if seed < 0:
        raise InputError(f"The seed of a corpus is 0 or more, not {seed}.")
    clips = plan(videos, seed) if events is None else plan_events(videos, seed, events)
    out = Path(out)
    kind = {} if events is None else {"kind": "events", **asdict(events)}
    finished = _claim(out, {"version": VERSION, "videos": videos, "seed": seed, **kind})
    files = [out / clip.file for clip in clips]
    if finished and all(file.is_file() for file in files):
        return _report(out, clips, sum(file.stat().st_size for file in files), started, reused=True)
    make_folder(out / VIDEO_FOLDER)
    size = _write_videos(out, clips, processes or usable_cpus(), on_progress or (lambda _: None))
    _write_captions(out / CAPTIONS_FILE, clips)
    return _report(out, clips, size, started, reused=False)


def _claim(out: Path, identity: dict[str, Any]) -> bool:
    """Claim ``out`` for this corpus, or raise InputError; return True if its captions file, written last, exists."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; a corpus needs a folder.")
    marker = out / CORPUS_FILE
    if marker.is_file():
        try:
            found = load_json(marker.read_bytes())
        except (ValueError, OSError) as error:
            raise InputError(f"{marker} cannot be read ({error}); choose another folder.") from error
        if found != identity:
            raise InputError(
                f"{out} holds another corpus ({shown(found)} instead of {identity}); choose another folder."
            )
        return (out / CAPTIONS_FILE).is_file()
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} holds other things than a corpus; choose a new or empty folder.")
    write_json(marker, identity)
    return False


def _write_videos(out: Path, clips: Sequence[Clip], processes: int, on_progress: Callable[[int], None]) -> int:
    """Encode all clips and return their total bytes. Files do not depend on which process writes them."""
    chunks = [clips[start : start + CHUNK_VIDEOS] for start in range(0, len(clips), CHUNK_VIDEOS)]
    size = done = 0
    processes = min(processes, len(chunks))
    if processes <= 1:
        for chunk in chunks:
            size += _write_chunk(out, chunk)
            done += len(chunk)
            on_progress(done)
        return size
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        for chunk, written in zip(chunks, pool.map(_write_chunk, [out] * len(chunks), chunks), strict=True):
            size += written
            done += len(chunk)
            on_progress(done)
    except BrokenProcessPool as error:
        raise RunError("A process that encodes videos died; run the command again, it starts over.") from error
    finally:
        pool.shutdown(cancel_futures=True)
    return size


def _write_chunk(out: Path, clips: Sequence[Clip]) -> int:
    return sum(
        encode(out / c.file, c.scene.render(), c.format, c.scene.fps, c.scene.width, c.scene.height) for c in clips
    )


def _write_captions(path: Path, clips: Sequence[Clip]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow((*COLUMNS, *clips[0].scene.attributes))
        for clip in clips:
            attributes = clip.scene.attributes.values()
            rows.writerows((clip.file, clip.video_id, caption, clip.split, *attributes) for caption in clip.captions)


def _report(out: Path, clips: Sequence[Clip], size: int, started: float, *, reused: bool) -> CorpusReport:
    return CorpusReport(
        splits={split: sum(clip.split == split for clip in clips) for split in SPLITS},
        captions=sum(len(clip.captions) for clip in clips),
        bytes=size,
        seconds=time.monotonic() - started,
        captions_file=out / CAPTIONS_FILE,
        reused=reused,
    )
