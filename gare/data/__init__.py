"""Turn shards into batches: captions, tokens, padding."""
