"""Python's garbage collector, told to leave records alone."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["seldom_collected"]

_THRESHOLDS = (100_000, 50, 1_000)


@contextmanager
def seldom_collected() -> Generator[None]:
    """Meanwhile the collector looks for cycles less often, in this process as a whole.

    Records come and go by the hundred thousand, and none is part of a cycle: looking at them was a fifth of a replay.
    """
    before = gc.get_threshold()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
