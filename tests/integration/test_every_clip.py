"""Every real clip there is, the broken and the hostile ones too, in one ``gare prepare``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from fnmatch import fnmatch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gare.schema import MANIFEST
from pipelines.manifest.rows import write_manifest
from tests.processes import below, command, peak_bytes

pytestmark = [pytest.mark.ray, pytest.mark.slow]
MOST_BYTES = 1.5e9

# What has another outcome than ok; the first pattern that fits counts.
EXPECTED = {
    "odd/pipe.mp4": "not_a_file",
    "odd/folder.mp4": "not_a_file",
    "odd/none.mp4": "missing",
    "odd/http": "unsupported_uri",
    # encrypted
    "good/ax_mp4_sample_fragmented_sgpd_v2.mp4": "corrupt",
    "broken/ax_drm_*": "unreadable",
    "broken/ax_mkv_subsample_encrypted_*": "no_frames",
    # sound, text and data only
    "broken/ax_dash_*.audio.mp4": "no_video",
    "broken/ax_dash_*text*init.mp4": "no_video",
    "broken/ax_dash_*text.mp4": "no_video",
    "broken/ax_mkv_*opus*": "no_video",
    "broken/ax_mp4_sample_ac3.mp4": "no_video",
    "broken/ax_mp4_sample_audio_only*": "no_video",
    "broken/ax_mp4_sample_dthd.mp4": "no_video",
    "broken/ax_mp4_sample_fixed_rechunk_no_elst.mp4": "no_video",
    "broken/ax_mp4_sample_opus_fragmented.mp4": "no_video",
    "broken/ax_ts_sample_ait.ts": "no_video",
    "broken/gpac_france.mp4": "no_video",
    "broken/gpac_gpac.mp4": "no_video",
    "broken/mp4parse_amr_*": "no_video",
    "broken/mp4parse_sine-*": "no_video",
    "hostile/audio_coverart.m4a": "no_video",
    # headers alone
    "broken/*_init.mp4": "no_packets",
    "broken/mp4parse_*-init.mp4": "no_packets",
    "broken/mp4parse_invalid_userdata.mp4": "no_packets",
    "hostile/fuzz_083_*": "no_packets",
    # nothing
    "broken/moviepy_result.webm": "empty_file",
    "hostile/zero_byte.mp4": "empty_file",
    # not on the list of containers, or no container at all
    "broken/*.swf": "unreadable",
    "broken/gpacfuzz_*": "unreadable",
    "hostile/hls_*": "unreadable",
    "hostile/html404.mp4": "unreadable",
    "hostile/pngbomb_named.mp4": "unreadable",
    "hostile/text.mp4": "unreadable",
    # damaged beyond opening
    "broken/ax_mp4_sample_fragmented_sideloaded_track.mp4": "unreadable",
    "broken/ax_mp4_sample_malformed_free_box.mp4": "unreadable",
    "broken/jellyfin_*": "unreadable",
    "broken/lerobot_*": "unreadable",
    "broken/mp4parse_clusterfuzz-*": "unreadable",
    "broken/mp4parse_hdlr-not-first.avif": "unreadable",
    "broken/mp4parse_ipma-invalid-property-index.avif": "unreadable",
    "broken/mp4parse_no-hdlr.avif": "unreadable",
    "hostile/fuzz_067_*": "unreadable",
    "hostile/fuzz_108_*": "unreadable",
    "hostile/fuzz_117_*": "unreadable",
    "hostile/fuzz_196_*": "unreadable",
    "hostile/fuzz_198_*": "unreadable",
    "hostile/fuzz_201_*": "unreadable",
    "hostile/fuzz_235_*": "unreadable",
    "hostile/stsz_500M.mp4": "unreadable",
    "hostile/trunc50_moov_end.mp4": "unreadable",
    # opened, and then
    "broken/ax_vp9_invalid-bitstream.webm": "no_frames",
    "broken/mp4parse_imir-before-clap.avif": "no_frames",
    "broken/mp4parse_transformation-before-ispe.avif": "no_frames",
    "hostile/fuzz_167_*": "no_frames",
    "hostile/fuzz_169_*": "no_decodable_video",
    "hostile/fuzz_172_*": "no_frames",
    "hostile/fuzz_175_*": "no_frames",
    "hostile/fuzz_177_*": "no_frames",
    "hostile/no_keyframes.mkv": "no_frames",
    "hostile/fuzz_080_*": "corrupt",
    "hostile/fuzz_086_*": "corrupt",
    "hostile/fuzz_132_*": "corrupt",
    "hostile/fuzz_137_*": "corrupt",
    "hostile/fuzz_138_*": "corrupt",
    "hostile/fuzz_222_*": "corrupt",
    "hostile/huge8192.mp4": "too_many_pixels",
}


def expected(name: str) -> str | None:
    return next((kind for pattern, kind in EXPECTED.items() if fnmatch(name, pattern)), None)


def test_every_clip_has_the_outcome_it_should_in_little_memory(fixtures_dir, tmp_path):
    clips = fixtures_dir / "clips"
    uris = {path.relative_to(clips).as_posix(): str(path) for path in sorted(clips.glob("*/*"))}
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    uris |= {f"odd/{name}.mp4": str(tmp_path / f"{name}.mp4") for name in ("pipe", "folder", "none")}
    uris["odd/http"] = "https://localhost/a.mp4"
    rows = [{"video_id": name, "uri": uri, "split": "train", "captions": []} for name, uri in uris.items()]
    write_manifest(pa.Table.from_pylist(rows, schema=MANIFEST), tmp_path / "m.parquet")

    settings = ("--set", "prepare.unit_videos=8", "--set", "prepare.storage=jpeg")
    arguments = (tmp_path / "m.parquet", "--ray", "--out", tmp_path / "out", *settings, "--json")
    job = subprocess.Popen(
        [sys.executable, "-c", "from gare.cli import main; main()", "prepare", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peaks: dict[str, int] = {}
    while job.poll() is None:
        for pid in (job.pid, *below(job.pid)):
            name = command(pid)
            peaks[name] = max(peaks.get(name, 0), peak_bytes(pid))
        time.sleep(0.2)
    out, err = job.communicate()
    assert job.returncode == 0, err[-2000:]

    found = {row["video_id"]: row["reason"] for row in pq.read_table(tmp_path / "out/ledger").to_pylist()}
    assert found.keys() == uris.keys()
    assert {name: kind for name, kind in found.items() if kind != expected(name)} == {}
    assert [pattern for pattern in EXPECTED if not any(fnmatch(name, pattern) for name in uris)] == []
    assert json.loads(out)["totals"]["rows"] == len(uris)
    assert any("decode_worker" in name for name in peaks)
    assert {name: peak for name, peak in peaks.items() if peak > MOST_BYTES} == {}
