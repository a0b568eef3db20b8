"""The folder that prepare writes: fixed work units of the manifest, their shards, and which of them are finished."""

from pipelines.output.layout import (
    MANIFEST_FILE,
    RECIPE_FILE,
    Output,
    ShardFile,
    dataset_digest,
    shard_name,
)
from pipelines.output.ledger import (
    SHARDS_KEY,
    Ledger,
    Part,
    read_ledger,
    remove_leftovers,
    remove_superseded,
    write_ledger,
)
from pipelines.output.opening import existing_output, open_output, take_up
from pipelines.output.recipe import read_recipe, recipe_digest, stated

__all__ = [
    "MANIFEST_FILE",
    "RECIPE_FILE",
    "SHARDS_KEY",
    "Ledger",
    "Output",
    "Part",
    "ShardFile",
    "dataset_digest",
    "existing_output",
    "open_output",
    "read_ledger",
    "read_recipe",
    "recipe_digest",
    "remove_leftovers",
    "remove_superseded",
    "shard_name",
    "stated",
    "take_up",
    "write_ledger",
]
