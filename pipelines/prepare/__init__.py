"""Turn a manifest into shards: find the unfinished work units and process them, on Ray or in this process."""
