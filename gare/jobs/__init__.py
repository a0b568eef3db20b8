"""Commands as jobs of a Ray cluster: what travels with them, which paths they may name, how they are followed."""
