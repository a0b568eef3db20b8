"""Turn the published annotation files of the retrieval benchmarks into manifests."""

from __future__ import annotations

from typing import Final

from pipelines.manifest.benchmarks import activitynet, didemo, lsmdc, msrvtt, msvd
from pipelines.manifest.benchmarks.annotations import Benchmark

BENCHMARKS: Final[dict[str, Benchmark]] = {
    "msrvtt": Benchmark("MSR-VTT", msrvtt.read, dev="inside train"),
    "didemo": Benchmark("DiDeMo", didemo.read, paragraph=True),
    "activitynet": Benchmark("ActivityNet Captions", activitynet.read, dev="carved", paragraph=True),
    "msvd": Benchmark("MSVD", msvd.read),
    "lsmdc": Benchmark("LSMDC", lsmdc.read),
}
"""Keyed by the name of the benchmark's command."""
