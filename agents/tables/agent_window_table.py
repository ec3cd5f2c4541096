"""Windowed tables: tables of windows that agents write, `app.Table("views", default=int).tumbling(60, expires=3600)`.

They are Faust's. The content is that of the tables of windows of flows (`window_table.py`), and so are its invariants.
What differs is who writes it, and when: an agent, record by record (`agents/agent_windows.py`).

- The time of the partition is the least stream time of its *inputs*: the agents that have written to the table in this
  partition, each with the topic it reads. All records of an input move its time, whether it writes to the table then or
  not. Stream time of each input, with the windows that are closed, is a part of the time row.
- grace is `expires - size`, and windows are kept for `expires`. Without `expires` they never close.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..event_time.windows import Pane
from .open_partition import V
from .relative_time import STREAM, RelativeTime
from .window_table import WindowTable

if TYPE_CHECKING:
    from .relative_time import RecordAtHand

__all__ = ["AgentWindowTable", "CloseCallback", "WindowWriter"]

CloseCallback = Callable[[Any, Any], Any]
"""A function, async or not, of (key, (start, end)) and the final value of a window; times are seconds since 1970."""


class WindowWriter:
    """Base class of what an agent's stream knows of the windows that it writes: see `agents/agent_windows.py`."""

    @property
    def record(self) -> RecordAtHand:
        """The record that the agent processes.

        Raises:
            Usage: it processes none that has a time of its own.
        """
        raise NotImplementedError

    def pane(self, table: AgentWindowTable[Any]) -> Pane | None:
        """Return the pane of the record that the agent processes; None if it is late, and has been sent away.

        Raises:
            BadRecord: the record has no time.
            Usage: the agent cannot write to the table.
        """
        raise NotImplementedError


class AgentWindowTable(WindowTable[V]):
    """A table of windows that agents write.

    Args:
        on_close: called with each window that has closed, by the agent that has brought time forward.
        writer: returns what the stream of the running agent knows of windows; None outside of agents.

    Attributes:
        time: the time of records that it goes by.
        is_time_given: whether the program has said which.
        is_read: whether an agent of this worker reads records; from then on `time` does not change.
    """

    def __init__(
        self, name: str, *, on_close: CloseCallback | None, writer: Callable[[], WindowWriter | None], **options: Any
    ) -> None:
        self.on_close, self.writer = on_close, writer
        self.time: RelativeTime = STREAM
        self.is_time_given = self.is_read = False
        super().__init__(name, **options)
        self.plain = _plain


def _plain(value: Any) -> Any:
    """Return a value in the form that JSON output shows: records of Faust models as dicts, at any depth."""
    if type(value) is list:
        return list(map(_plain, value))
    if type(value) is dict:
        return {key: _plain(one) for key, one in value.items()}
    return _plain(value.asdict()) if hasattr(value, "asdict") else value
