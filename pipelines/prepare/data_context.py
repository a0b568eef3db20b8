"""The settings of Ray Data while units are processed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from gare.common.nodes import Selector


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray Data's own bars and banners out of ours, and pickled object columns out of its blocks."""
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
    """Keep the data sets that are made in the block, which have their own copy of the settings, to some nodes.

    The selector of all executions, and not that of ``map_batches``, also goes with the nodes that Ray Data asks the
    autoscaler for; without it they could be GPU nodes.
    """
    from ray.data import DataContext

    options = DataContext.get_current().execution_options
    before = options.label_selector
    try:
        options.label_selector = dict(nodes) or None
        yield
    finally:
        options.label_selector = before
