"""The folder that prepare writes: fixed work units of the manifest, their shards, and which of them are finished."""

from pipelines.dataset.finished import once_finished
from pipelines.dataset.layout import (
    MANIFEST_FILE,
    RECIPE_FILE,
    Output,
    ShardFile,
    dataset_digest,
    shard_name,
    unit_name,
)
from pipelines.dataset.ledger import (
    SHARDS_KEY,
    Absent,
    Damaged,
    Ledger,
    Part,
    Unfinished,
    read_ledger,
    remove_leftovers,
    remove_superseded,
    write_ledger,
)
from pipelines.dataset.opening import existing_output, open_output, take_up
from pipelines.dataset.recipe import read_recipe, recipe_digest, stated

__all__ = [
    "MANIFEST_FILE",
    "RECIPE_FILE",
    "SHARDS_KEY",
    "Absent",
    "Damaged",
    "Ledger",
    "Output",
    "Part",
    "ShardFile",
    "Unfinished",
    "dataset_digest",
    "existing_output",
    "once_finished",
    "open_output",
    "read_ledger",
    "read_recipe",
    "recipe_digest",
    "remove_leftovers",
    "remove_superseded",
    "shard_name",
    "stated",
    "take_up",
    "unit_name",
    "write_ledger",
]
