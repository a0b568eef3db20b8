"""Read, check and write the manifest (one row per video), and make it from other sources and from benchmarks."""
