"""Settings of Ray Data for the jobs that run as its tasks and actors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from gare.common.nodes import Selector


@contextmanager
def quiet() -> Iterator[None]:
    """Hide Ray Data's own progress bars and banners, and keep pickled object columns out of its blocks."""
    from ray.data import DataContext

    logger = logging.getLogger("ray.data")
    level = logger.level
    context = DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "enable_fallback_to_arrow_object_ext_type": False,
    }
    before = {name: getattr(context, name) for name in wanted}
    try:
        logger.setLevel(logging.CRITICAL)  # errors reach the user as a RunError
        for name, value in wanted.items():
            setattr(context, name, value)
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)


@contextmanager
def kept_to(nodes: Selector) -> Iterator[None]:
    """Restrict the data sets made in the block, which copy the settings, to the nodes of a selector.

    Unlike the selector of ``map_batches``, the one for all executions also applies to the nodes that Ray Data requests
    from the autoscaler; without it they could be GPU nodes.
    """
    from ray.data import DataContext

    options = DataContext.get_current().execution_options
    before = options.label_selector
    try:
        options.label_selector = dict(nodes) or None
        yield
    finally:
        options.label_selector = before
