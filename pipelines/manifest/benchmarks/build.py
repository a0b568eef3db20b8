"""Make a manifest from annotations and a folder of videos, and account for every video that is left out."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from gare.common.errors import InputError
from gare.common.files import atomic_file
from pipelines.manifest.benchmarks.annotations import Benchmark, Entry, Folder, Options, Published, Split
from pipelines.manifest.benchmarks.videos import Found, find_videos
from pipelines.manifest.files import NO_UTF8, UNREADABLE
from pipelines.manifest.rows import DEV, TRAIN, carve, check_disjoint, some, table_of, taken_from_train
from pipelines.manifest.sources.tables import SOURCE, clip_id

UNKNOWN = Published()


@dataclass
class Counts:
    """Counts of one split: videos, unless the name says captions.

    The annotated videos are the sum of those taken out for dev, those without a caption, those without a file
    (missing) and those in the manifest (videos). ``captions`` counts those in the manifest. Published numbers are
    None if unknown.
    """

    published: int | None = None
    published_captions: int | None = None
    annotated: int = 0
    annotated_captions: int = 0
    taken_for_dev: int = 0
    uncaptioned: int = 0
    missing: int = 0
    videos: int = 0
    captions: int = 0
    empty_captions: int = 0

    @classmethod
    def of(cls, entries: list[Entry], published: Published = UNKNOWN) -> Counts:
        """Count the annotated videos and captions."""
        captions = sum(len(entry.captions) for entry in entries)
        return cls(published.videos, published.captions, len(entries), captions)

    def differences(self) -> list[str]:
        """List the numbers in which the annotations differ from the published ones."""
        pairs = (
            ("videos", self.annotated, self.published),
            ("captions", self.annotated_captions, self.published_captions),
        )
        return [f"{there:,} {what} where {wanted:,} are published" for what, there, wanted in pairs
                if wanted not in (None, there)]  # fmt: skip


@dataclass(frozen=True)
class Missing:
    """A video without a file: its split, and the file name that was searched for."""

    video_id: str
    split: str
    file: str


@dataclass(frozen=True)
class Made:
    """The manifest and what it leaves out.

    ``absent``: the missing annotation files, by split. ``several``: the candidate files of videos that have more
    than one; the manifest uses the first. ``used``: the annotation files that were read.
    """

    table: pa.Table
    counts: dict[str, Counts]
    absent: dict[str, list[str]]
    missing: list[Missing]
    several: dict[str, list[str]]
    notes: list[str]
    used: set[Path]


def make_manifest(
    benchmark: Benchmark, annotations: Path, videos: Path, options: Options, *, strict: bool = False
) -> Made:
    """Make a benchmark's manifest of the videos whose files exist.

    Raises InputError if there is no annotation file or no video, if the annotations are malformed, or if a video is
    in two splits; with ``strict`` also if anything that is published is missing.
    """
    folder = Folder(annotations)
    splits = benchmark.read(folder, options)
    absent = {split.name: folder.lacking(split.files) for split in splits if split.entries is None}
    if len(absent) == len(splits):
        looked_for = dict.fromkeys(name for split in splits for name in split.files)
        raise InputError(f"{annotations} holds no split of {benchmark.title}; it was searched for {_and(looked_for)}.")
    entries, counts = _arrange(benchmark, splits, options)
    check_disjoint({name: [e.video_id for e in listed] for name, listed in entries.items()}, str(annotations))
    captioned = {name: _captioned(listed, counts[name], benchmark) for name, listed in entries.items()}
    found = find_videos({e.video_id: e.names for listed in captioned.values() for e in listed}, videos)
    missing = [
        Missing(e.video_id, name, e.names[0])
        for name, listed in captioned.items()
        for e in listed
        if e.video_id not in found.files
    ]
    if strict:
        _check_complete(absent, counts, missing, annotations, videos)
    table = table_of(_rows(captioned, found, counts), str(annotations))
    if not table.num_rows:
        raise InputError(
            f"None of {len(missing):,} videos has a file in {videos} or the folders below: {missing[0].file} "
            "and the others were looked for with any extension."
            if missing
            else f"No video in {annotations} has a caption."
        )
    # A link that leads nowhere, or a pipe, counts as a missing file, and the videos that need it are listed as missing.
    notes = [*folder.notes, *(f"{p} {why}." for p, why in found.left_out.items() if why in (UNREADABLE, NO_UTF8))]
    return Made(table, counts, absent, missing, found.several, notes, folder.used)


def write_missing(missing: list[Missing], path: Path) -> None:
    """Write the list of missing videos as CSV, atomically: video_id, split, file."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.DictWriter(stream, ["video_id", "split", "file"])
        rows.writeheader()
        rows.writerows(asdict(video) for video in missing)


def _arrange(
    benchmark: Benchmark, splits: list[Split], options: Options
) -> tuple[dict[str, list[Entry]], dict[str, Counts]]:
    """Return the videos of each split that exists, with dev removed from train, and first counts."""
    entries = {split.name: split.entries for split in splits if split.entries is not None}
    counts = {split.name: Counts.of(split.entries, split.published) for split in splits if split.entries is not None}
    if benchmark.dev == "separate" or TRAIN not in entries:
        return entries, counts
    train, dev = entries.pop(TRAIN), entries.pop(DEV, [])
    ids = [entry.video_id for entry in train]
    if benchmark.dev == "carved":
        drawn = carve(ids, {DEV: options.dev_share}, options.seed)
        dev = [entry for entry, split in zip(train, drawn, strict=True) if split == DEV]
        counts = {TRAIN: counts.pop(TRAIN), DEV: Counts.of(dev), **counts}
    inside, out = set(ids), {entry.video_id for entry in dev}
    rest = [entry for entry in train if entry.video_id not in out]
    counts[TRAIN].taken_for_dev = len(train) - len(rest)
    marked = [_taken(entry) if entry.video_id in inside else entry for entry in dev]
    return {TRAIN: rest, **({DEV: marked} if dev else {}), **entries}, counts


def _taken(entry: Entry) -> Entry:
    return replace(entry, attributes=dict(taken_from_train(entry.attributes.items())))


def _captioned(entries: list[Entry], counts: Counts, benchmark: Benchmark) -> list[Entry]:
    """Keep videos with a caption: drop and count empty captions, and join paragraphs if the protocol asks for it."""
    kept = []
    for entry in entries:
        captions = [caption.strip() for caption in entry.captions if caption.strip()]
        counts.empty_captions += len(entry.captions) - len(captions)
        moments = [m._replace(caption=m.caption.strip()) for m in entry.moments if m.caption.strip()]
        if moments:
            captions = [moment.caption for moment in moments]
        elif benchmark.paragraph:
            captions = [" ".join(captions)] if captions else []
        if captions:
            kept.append(replace(entry, captions=captions, moments=moments))
    counts.uncaptioned = len(entries) - len(kept)
    return kept


def _rows(captioned: Mapping[str, list[Entry]], found: Found, counts: Mapping[str, Counts]) -> list[dict[str, Any]]:
    """Make the manifest's rows and complete the counts."""
    rows = []
    for name, entries in captioned.items():
        there = [entry for entry in entries if entry.video_id in found.files]
        counts[name].missing = len(entries) - len(there)
        counts[name].videos = len(there)
        counts[name].captions = sum(len(entry.captions) for entry in there)
        rows += [row for entry in there for row in _rows_of(entry, name, found.files[entry.video_id])]
    return rows


def _rows_of(entry: Entry, split: str, uri: str) -> list[dict[str, Any]]:
    """Return a video's row, or one for each of its moments; moments with the same times share a row."""
    shared = {"uri": uri, "split": split, "attributes": list(entry.attributes.items()) or None}
    if not entry.moments:
        clip = {} if entry.end_s is None else {"start_s": 0.0, "end_s": entry.end_s}
        return [{**shared, **clip, "video_id": entry.video_id, "captions": list(entry.captions)}]
    captions: dict[tuple[float, float], dict[str, None]] = {}
    for start_s, end_s, caption in entry.moments:
        captions.setdefault((start_s, end_s), {})[caption] = None
    shared["attributes"] = [(SOURCE, entry.video_id), *entry.attributes.items()]
    return [
        {
            **shared,
            "video_id": clip_id(entry.video_id, *clip),
            "start_s": clip[0],
            "end_s": clip[1],
            "captions": [*texts],
        }
        for clip, texts in captions.items()
    ]


def _check_complete(
    absent: Mapping[str, list[str]],
    counts: Mapping[str, Counts],
    missing: list[Missing],
    annotations: Path,
    videos: Path,
) -> None:
    wrong = [f"the split {name} has no {_and(files)}" for name, files in absent.items()]
    wrong += [f"the split {name} has {text}" for name, count in counts.items() for text in count.differences()]
    if wrong:
        raise InputError(f"--strict, and in {annotations} {_and(wrong)}; nothing was written.")
    if missing:
        raise InputError(
            f"--strict, and {some([m.video_id for m in missing])} missing in {videos}; nothing was written. "
            "Without --strict the manifest is made of the others, with a list of these."
        )


def _and(items: Any) -> str:
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else str(last)
