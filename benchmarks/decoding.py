"""Compare decoding with decord, torchcodec and a plain PyAV loop: the same clips, the same frames, in one run.

    python benchmarks/decoding.py [--clips DIR] [--resize torch] [--quick]

Every decoder keeps 12 frames a clip: candidates at one per second thinned by linspace, shorter side 224 (bicubic,
antialiased), centre square, uint8 RGB. All resize with PIL, so that only the decoding differs; torch's own resize makes
the peers faster by a tenth, at 0.004 grey levels from PIL's. Each measurement is a separate process, one at a time and
in turns, so that noise affects all equally. Ratios are of the same turn: their median, and the range. A ratio above 1
says how much longer the peer takes. "same times" is the share of picked frames shown at the same time as those of the
plain PyAV loop, and "difference" the mean absolute difference to its frames after the resize, in grey levels of 255,
over those: ours are converted exactly, the plain loop's by FFmpeg's fast conversion, which is a level or two too dark.
Memory is the peak above that of the process after its imports.

The peers come with ``pip install 'gare-ray[bench]'``, which ``make bench`` runs; torchcodec also needs FFmpeg's shared
libraries, version 4 to 8 (Debian and Ubuntu: ``apt-get install ffmpeg``). The output names a peer that is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from common.process import OwnProcessError, PeakMemory, own_process
from decoders.clips import FPS, GOP, HEIGHT, WIDTH, Group, clips_in, long_clip, short_clips, short_lengths
from decoders.decoders import DECODERS, NEEDS, OURS, REFERENCE, RESIZES, load

LONG_GOPS = (30, GOP)


@dataclass
class Turns:
    """A decoder's cost for a group, a value per turn: seconds and MB."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Agreement:
    """Share of frames at the same times as the reference, and the mean absolute difference of those."""

    same_times: float
    difference: float


def decode_here(name: str, resize: str, warm_up: Path, clips: Sequence[Path], frames: Path | None) -> None:
    """Decode all clips in this process, print seconds, memory and failures; write the frames if requested."""
    try:
        decode = load(name, resize)
    except Exception as error:  # noqa: BLE001 - the other process prints it as the reason
        sys.exit(first_line(error))
    memory = PeakMemory()
    decode(warm_up)
    kept, failed = {}, {}
    wall, cpu = time.perf_counter(), time.process_time()
    for number, clip in enumerate(clips):
        try:
            picked = decode(clip)
        except Exception as error:  # noqa: BLE001 - a peer may raise anything; it is reported
            failed[str(clip)] = first_line(error)
            continue
        if frames is not None:
            kept[f"times_{number}"], kept[f"frames_{number}"] = np.asarray(picked.times_s), picked.frames
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if frames is not None:
        np.savez(frames, **kept)
    print(json.dumps({"wall": wall, "cpu": cpu, "memory": memory.added(), "failed": failed}))


def first_line(error: BaseException) -> str:
    """Format an error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


class Comparison:
    """The decoders that work here, and the folder for measurements."""

    def __init__(self, folder: Path, warm_up: Path, resize: str) -> None:
        self.folder, self.warm_up, self.resize = folder, warm_up, resize
        self.names: list[str] = []
        for name in DECODERS:
            try:
                self.run(name, [])
                self.names.append(name)
            except OwnProcessError as error:
                needs = next((text for peer, text in NEEDS.items() if name.startswith(peer)), "")
                print(f"NOT COMPARED: {name}: {error}{f' ({needs})' if needs else ''}")
        if OURS not in self.names or REFERENCE not in self.names:
            raise SystemExit(f"Nothing can be compared without {OURS} and {REFERENCE}.")

    def run(self, name: str, clips: Sequence[Path], frames: Path | None = None) -> dict[str, float]:
        """Make one measurement; it includes {"failed": clip -> reason}."""
        listed = self.folder / "clips.json"
        listed.write_text(json.dumps([str(clip) for clip in clips]), encoding="utf-8")
        asked = ["--list", listed, "--warm-up", self.warm_up, "--resize", self.resize]
        asked += ["--frames", frames] if frames is not None else []
        printed = own_process(__file__, "--one", name, *asked)
        measured: dict[str, float] = json.loads(printed.splitlines()[-1])
        return measured

    def compare(self, group: Group) -> None:
        """Check the frames of all decoders, time them over the clips that all can decode, and print the table."""
        failed: dict[str, dict[str, str]] = {}
        names = []
        for name in self.names:
            try:
                failed[name] = self.run(name, group.clips, self.frames_file(name))["failed"]  # type: ignore[assignment]
                names.append(name)
            except OwnProcessError as error:
                print(f"NOT COMPARED on the following: {name}: {error}")
        left_out = {clip for name in names for clip in failed[name]}
        clips = [clip for clip in group.clips if str(clip) not in left_out]
        print(f"\n{group.title}; {len(clips)} clips, {group.repetitions} turns")
        for name, reasons in failed.items():
            if reasons:
                files = ", ".join(Path(clip).name for clip in reasons)
                print(f"  left out, as {name} cannot decode them: {files} ({next(iter(reasons.values()))})")
        if not clips:
            return
        agreements = self.agreements(names, [i for i, clip in enumerate(group.clips) if clip in clips])
        turns = {name: Turns() for name in names}
        for turn in range(group.repetitions):
            for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
                measured = self.run(name, clips)
                for key in ("wall", "cpu", "memory"):
                    getattr(turns[name], key).append(measured[key])
        print_table(turns, agreements, len(clips))

    def frames_file(self, name: str) -> Path:
        """Return the file of a decoder's frames until they are compared."""
        return self.folder / f"frames-{list(DECODERS).index(name)}.npz"

    def agreements(self, names: Sequence[str], numbers: Sequence[int]) -> dict[str, Agreement]:
        """Compare the frames of every decoder with the reference's, clip by clip."""
        with np.load(self.frames_file(REFERENCE)) as stored:
            reference = {key: stored[key] for key in stored.files}
        found = {}
        for name in names:
            frames = same = 0
            differences = []
            with np.load(self.frames_file(name)) as stored:
                for number in numbers:
                    times, wanted = stored[f"times_{number}"], reference[f"times_{number}"]
                    frames += max(len(times), len(wanted))
                    at = [np.flatnonzero(abs(wanted - time) < 0.5e-3) for time in times]
                    pairs = [(i, int(j[0])) for i, j in enumerate(at) if len(j)]
                    same += len(pairs)
                    ours, theirs = stored[f"frames_{number}"], reference[f"frames_{number}"]
                    differences += [np.abs(ours[i].astype(np.int16) - theirs[j]).mean() for i, j in pairs]
            found[name] = Agreement(same / max(frames, 1), float(np.mean(differences)) if differences else float("nan"))
        return found


def print_table(turns: dict[str, Turns], agreements: dict[str, Agreement], clips: int) -> None:
    """Print a row per decoder: medians, and ratios to ours within a turn."""
    print(
        f"  {'':24s}{'wall s/clip':>12s}{'CPU s/clip':>12s}   {'wall':22s}{'CPU':22s}{'memory':>8s}"
        f"{'same times':>12s}{'difference':>12s}"
    )
    ours = turns[OURS]
    for name, took in turns.items():
        wall, cpu = ratio(took.wall, ours.wall), ratio(took.cpu, ours.cpu)
        row = agreements[name]
        print(
            f"  {name:24s}{statistics.median(took.wall) / clips:12.3f}{statistics.median(took.cpu) / clips:12.3f}"
            f"   {wall:22s}{cpu:22s}{max(took.memory):5.0f} MB{row.same_times:12.1%}{row.difference:12.3f}"
        )


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Format the median ratio of the turns, and their range."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return f"{statistics.median(ratios):5.2f} x ({min(ratios):.2f}-{max(ratios):.2f})"


def groups(options: argparse.Namespace, folder: Path) -> list[Group]:
    """Make or find the clips."""
    shape = f"{WIDTH}x{HEIGHT}, {FPS} fps, x264"
    made = []
    if options.clips is not None:
        made.append(Group(f"Clips of {options.clips}", clips_in(options.clips), options.turns))
    if options.short:
        clips = short_clips(folder, options.short)
        title = f"Short clips of 10 to 30 s, {shape}, GOP {GOP}, {bit_rate(clips, sum(short_lengths(len(clips))))}"
        made.append(Group(title, clips, options.turns))
    for gop in LONG_GOPS if options.minutes else ():
        clip = long_clip(folder, options.minutes, gop)
        title = f"{options.minutes:g} minutes, {shape}, GOP {gop}, {bit_rate([clip], 60 * options.minutes)}"
        made.append(Group(title, [clip], options.long_turns))
    return made


def bit_rate(clips: Sequence[Path], seconds: float) -> str:
    """Format the mean bit rate of some files."""
    return f"{8 * sum(clip.stat().st_size for clip in clips) / seconds / 1000:.0f} kbit/s"


def main() -> None:
    """Print the tables, or one measurement for the tables' own processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, help="also compare over the video files of this folder")
    parser.add_argument("--short", type=int, default=12, help="short clips to make; 0 for none")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the long clips; 0 for none")
    parser.add_argument("--turns", type=int, default=5, help="turns over the short clips and --clips")
    parser.add_argument("--long-turns", type=int, default=2, help="turns over each long clip")
    parser.add_argument("--quick", action="store_true", help="4 short clips, 1-minute long ones, 2 turns")
    parser.add_argument("--folder", type=Path, help="keep the made clips here, and take those that are there")
    parser.add_argument("--resize", choices=list(RESIZES), default="pil", help="what the peers resize with")
    parser.add_argument("--one", choices=list(DECODERS), help=argparse.SUPPRESS)
    for name in ("--list", "--warm-up", "--frames"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        clips = [Path(clip) for clip in json.loads(options.list.read_text(encoding="utf-8"))]
        decode_here(options.one, options.resize, options.warm_up, clips, options.frames)
        return
    if options.quick:
        options.short, options.minutes, options.turns, options.long_turns = 4, 1.0, 2, 2
    with tempfile.TemporaryDirectory(prefix="gare-bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        warm_up = short_clips(Path(temporary), 1)[0]
        print(f"{os.cpu_count()} cores, one process at a time; the peers resize with {options.resize}")
        comparison = Comparison(Path(temporary), warm_up, options.resize)
        for group in groups(options, folder):
            comparison.compare(group)


if __name__ == "__main__":
    main()
