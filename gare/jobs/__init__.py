"""Run commands as jobs of a Ray cluster: what is sent, which paths are allowed, and how to follow a job."""
