"""Checks of what a machine needs for GARE; each returns findings and never raises."""
