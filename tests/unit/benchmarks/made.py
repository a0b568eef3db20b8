"""Small annotation folders in the benchmarks' own formats, and their manifests."""

from __future__ import annotations

import json

from pipelines.manifest.benchmarks import BENCHMARKS
from pipelines.manifest.benchmarks.annotations import Options
from pipelines.manifest.benchmarks.build import make_manifest
from pipelines.manifest.load import load_manifest


def write(folder, files):
    """Write text, JSON values (.json) or bytes by name."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            text = json.dumps(content) if name.endswith(".json") and not isinstance(content, str) else content
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def touch(folder, names):
    """Make empty files, in folders below as well."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def make(benchmark, annotations, videos, *, strict=False, **options):
    return make_manifest(BENCHMARKS[benchmark], annotations, videos, Options(**options), strict=strict)


def rows(table):
    """Rows by id, attributes as a dict."""
    return {row["video_id"]: row | {"attributes": dict(row["attributes"] or ())} for row in table.to_pylist()}


def ids(made, split):
    return [row["video_id"] for row in made.table.to_pylist() if row["split"] == split]


def numbers(made):
    """Videos and captions in the manifest by split."""
    return {name: (counts.videos, counts.captions) for name, counts in made.counts.items()}


def reading(path):
    return rows(load_manifest(path))
