"""Plan a run before anything is decoded, loaded or allocated."""

from gare.launch.dry_run.corpus import Corpus, SplitCounts
from gare.launch.dry_run.memory import Memory, memory_of_step
from gare.launch.dry_run.plan import Parameters, Plan, make_plan

__all__ = ["Corpus", "Memory", "Parameters", "Plan", "SplitCounts", "make_plan", "memory_of_step"]
