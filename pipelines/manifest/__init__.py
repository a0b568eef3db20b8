"""The manifest, one row per video: read, checked and written; made of what others keep and of benchmarks."""
