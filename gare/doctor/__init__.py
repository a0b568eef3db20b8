"""What a machine needs for GARE, looked at piece by piece: each check returns findings and never raises."""
