"""The data job: captioned videos to Arrow shards, with Ray Data and PyAV."""
