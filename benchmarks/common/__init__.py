"""Code shared by the benchmark scripts."""
