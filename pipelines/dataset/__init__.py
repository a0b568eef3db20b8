"""The output folder of prepare: fixed work units of the manifest, their shards, and which units are finished."""
