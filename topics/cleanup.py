"""What has been begun is ended when its beginning fails."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

__all__ = ["on_failure"]


@contextmanager
def on_failure(undo: Callable[[], object]) -> Generator[None]:
    """Call `undo` where the block does not come to its end, whatever keeps it from that: Ctrl-C as well, since nobody
    else knows of what is open then. The error goes on.
    """
    with ExitStack() as stack:
        stack.callback(undo)
        yield
        stack.pop_all()
