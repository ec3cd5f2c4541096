"""Undo the first steps of a start whose later steps fail."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

__all__ = ["on_failure"]


@contextmanager
def on_failure(undo: Callable[[], object]) -> Generator[None]:
    """Call `undo` if the block raises, Ctrl-C included: the caller does not know yet what the block has opened.

    The error is raised again.
    """
    with ExitStack() as stack:
        stack.callback(undo)
        yield
        stack.pop_all()
