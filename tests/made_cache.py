"""Datasets of which a cache knows file names, sizes and digests, and processes that copy them."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from gare.common.files import file_digest, write_json
from gare.common.storage import Folder
from gare.data.cache import entries, hold
from gare.schema import DATASET_FILE, SCHEMA_VERSION, SHARD_FOLDER

ROOT = Path(__file__).parents[1]
SIZES = (4000, 3000)
MARGIN = 6000
"""More than what is counted of a copy beside its shards: dataset file and note."""

SLOW = """
import sys
from gare.common.storage import Folder
from gare.data.cache import Cache, hold
true_fetch = Folder.fetch
def fetch(self, name, target, *, on_chunk=None):
    def slowly(chunk):
        print("came", name, flush=True)
        sys.stdin.readline()
        on_chunk(chunk)
    true_fetch(self, name, target, on_chunk=slowly)
Folder.fetch = fetch
held = hold(Folder.at(sys.argv[1]), Cache(sys.argv[2], mounted=True, threads=1))
print("held", held.folder, flush=True)
sys.stdin.read()
"""


def make_dataset(folder, sizes=SIZES, seed=0):
    """What a cache knows of a dataset: its file, and shards whose content it does not look into."""
    made = random.Random(f"{folder.name}{seed}")
    (folder / SHARD_FOLDER).mkdir(parents=True)
    shards = []
    for number, size in enumerate(sizes):
        path = folder / SHARD_FOLDER / f"part-{number}.arrow"
        path.write_bytes(made.randbytes(size))
        shards.append({"file": path.name, "rows": 1, "bytes": size, "sha256": file_digest(path)})
    values = {"schema_version": SCHEMA_VERSION, "digest": f"{made.getrandbits(64):016x}", "recipe_digest": "x"}
    values |= {"recipe": {"max_frames": 3, "short_side": 32}, "splits": {}, "shards": shards}
    write_json(folder / DATASET_FILE, values)
    return folder, values["digest"]


def copy(folder, cache):
    """Have a copy and let go of it; its folder."""
    held = hold(Folder.at(folder), cache)
    held.close()
    return held.folder


def same_files(one, other):
    names = {path.name for path in (other / SHARD_FOLDER).iterdir()}
    assert names == {path.name for path in (one / SHARD_FOLDER).iterdir()}
    for name in names:
        assert (one / SHARD_FOLDER / name).read_bytes() == (other / SHARD_FOLDER / name).read_bytes()


def states(cache):
    return {copy.digest: copy.state for copy in entries(cache.root)}


def copier(dataset, cache):
    """A process that copies a dataset and holds it; it says of each file that it came, and waits for a line then."""
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(dataset), str(cache.folder)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def go_on(process):
    """Let a copier finish the file it is at."""
    process.stdin.write("\n")
    process.stdin.flush()


def end(process):
    process.stdin.close()
    process.wait(timeout=30)
    for stream in (process.stdout, process.stderr):
        stream.close()
