"""Machines of a test's own on this one: each with its own network, processes, mounts, name and temporary folders."""
