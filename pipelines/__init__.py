"""The data job: turn captioned videos into Arrow shards with Ray Data and PyAV."""
