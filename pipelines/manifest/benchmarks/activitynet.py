"""ActivityNet Captions: YouTube videos with a sentence for each event; a video's sentences make one paragraph.

The usual test split is ``val_1``. There is no other official split for choosing a checkpoint.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeGuard

from gare.common.errors import InputError
from pipelines.manifest.benchmarks.annotations import Entry, Folder, Moment, Options, Published, Split, expect

FILES: Final = {
    "train": ("train.json", "train_ids.json", Published(10009)),
    "test": ("val_1.json", "val_ids.json", Published(4917)),
}
LONGEST_S: Final = 1e6


def read(folder: Folder, options: Options) -> list[Split]:
    """Read train and test; dev is drawn from train later."""
    return [
        folder.split(split, (name,), published, partial(_videos, folder, name, listed, moments=options.moments))
        for split, (name, listed, published) in FILES.items()
    ]


def _videos(folder: Folder, name: str, listed: str, *, moments: bool) -> list[Entry]:
    """Return the videos with sentences, limited to the list of ids if that file exists."""
    where = str(folder.path / name)
    videos = expect(dict, folder.json(name), where, "an object of videos")
    entries = [Entry(v, _sentences(row, f"{where}: {v!r}"), _files(v)) for v, row in videos.items()]
    if moments:
        entries = [_with_moments(entry, videos[entry.video_id], f"{where}: {entry.video_id!r}") for entry in entries]
        dropped = sum(len(entry.captions) - len(entry.moments) for entry in entries)
        if dropped:
            folder.notes.append(f"{dropped:,} moments of {name} have no time within their video and were left out.")
        entries = [replace(entry, captions=[m.caption for m in entry.moments]) for entry in entries]
    if not folder.has(listed):
        return entries
    wanted = _ids(folder, listed)
    for count, holds, lacks in (
        (len(wanted - videos.keys()), listed, name),
        (len(videos.keys() - wanted), name, listed),
    ):
        if count:
            folder.notes.append(f"{count:,} videos of {holds} are not in {lacks} and were left out.")
    return [entry for entry in entries if entry.video_id in wanted]


def _ids(folder: Folder, name: str) -> set[str]:
    where, what = str(folder.path / name), "a list of ids"
    return {expect(str, video_id, where, what) for video_id in expect(list, folder.json(name), where, what)}


def _sentences(row: object, where: str) -> list[str]:
    sentences = row.get("sentences") if isinstance(row, dict) else None
    if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
        raise InputError(f"{where} has no list of sentences; is it the file as published?")
    return sentences


def _with_moments(entry: Entry, row: dict[str, Any], where: str) -> Entry:
    """Return the video with its described moments, clipped to its duration; drop moments beyond the end."""
    times, duration = row.get("timestamps"), row.get("duration", LONGEST_S)
    if not _are_spans(times) or len(times) != len(entry.captions) or not _is_time(duration):
        raise InputError(f"{where} has no start and end for each sentence; is it the file as published?")
    moments = [
        Moment(max(0.0, float(start)), min(float(end), duration), caption)
        for (start, end), caption in zip(times, entry.captions, strict=True)
    ]
    return replace(entry, moments=[moment for moment in moments if moment.start_s < moment.end_s])


def _are_spans(times: Any) -> TypeGuard[list[list[float]]]:
    return isinstance(times, list) and all(isinstance(s, list) and len(s) == 2 and all(map(_is_time, s)) for s in times)


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LONGEST_S


def _files(video_id: str) -> tuple[str, ...]:
    """Return the possible file names: published files are named v_ID, downloads often by the YouTube ID alone."""
    return (video_id, video_id.removeprefix("v_"))
