"""Sends windows of a table to a topic, many at once: hundreds of thousands may close in the same moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...topics.errors import Stop
from ..tables.value_cache import own_copy
from .window_letters import window_element

if TYPE_CHECKING:
    from ..stream import Stream
    from ..tables.open_windows import WindowKey
    from ..tables.window_table import WindowTable
    from ..topic import Topic
    from .operators import Keying

__all__ = ["Portion", "Receiver", "WindowSender", "timestamp_of", "timestamp_within"]

_MOST = 10_000
"""Records that are made before they are put into the outbox, which refuses too many: `flat_map` may make any number."""


@dataclass(slots=True)
class Portion:
    """Windows that are sent together.

    Attributes:
        stream: the stream of the agent that sends them.
        windows: rows and values of the windows. A receiver whose functions are the program's gives them copies.
        time_ms: the stream time in milliseconds.
        number: index of the window that a receiver works on, for its failure.
    """

    stream: Stream
    windows: Sequence[tuple[WindowKey, Any]]
    time_ms: int
    number: int = 0


class Receiver(Protocol):
    """Gets windows of a table that have closed, or have changed.

    Attributes:
        into: name of the topic that gets what becomes of them.
    """

    into: str

    def send(self, portion: Portion) -> None:
        """Send windows with the running epoch. A failure is that of the window `portion.number`."""
        ...


class WindowSender:
    """Sends windows to a topic: a `Receiver`.

    Args:
        table: the table.
        keying: the operators behind it, and how they find keys.
        topic: the topic.
        whole_key: whether the records have the keys of rows, instead of the windows' own.
    """

    def __init__(self, table: WindowTable, keying: Keying, topic: Topic, *, whole_key: bool) -> None:
        self._table, self._keying, self._topic, self._whole_key = table, keying, topic, whole_key
        self.into = topic.get_topic_name()

    def send(self, portion: Portion) -> None:
        """Send windows; see `Receiver`."""
        windows, table, keying = portion.windows, self._table, self._keying
        if not keying.steps and keying.own_key:
            keys: list[object] = [row if self._whole_key else row[0] for row, _ in windows]
            elements: list[object] = [window_element(table, row, value) for row, value in windows]
            self._send(portion, range(len(windows)), keys, elements)
            return
        numbers: list[int] = []
        keys, elements = [], []
        for portion.number, (row, value) in enumerate(windows):
            own_key = row if self._whole_key else row[0]
            for key, element in keying.pairs_of(window_element(table, row, own_copy(value)), own_key):
                numbers.append(portion.number)
                keys.append(key)
                elements.append(element)
                if len(keys) == _MOST:
                    self._send(portion, numbers, keys, elements)
                    numbers, keys, elements = [], [], []
        self._send(portion, numbers, keys, elements)

    def _send(self, portion: Portion, numbers: Sequence[int], keys: list[object], elements: list[object]) -> None:
        """Send records.

        Args:
            numbers: the numbers of the windows that they are made of.
        """
        topic, context, time_ms = self._topic, portion.stream.context, portion.time_ms
        of_windows = [timestamp_within(row, time_ms) for row, _ in portion.windows]
        times = [of_windows[number] for number in numbers]
        try:
            outputs = topic.records(keys, elements, times)
        except Stop:
            raise
        except Exception:  # noqa: BLE001 (one by one, below, says which one it is, and raises again)
            outputs = []
            for portion.number, key, element, at_ms in zip(numbers, keys, elements, times, strict=True):
                outputs += topic.records([key], [element], [at_ms])
        if outputs:
            topic.need()
        if context.checks_each(portion.stream):
            for portion.number, output in zip(numbers, outputs, strict=True):
                context.send(output)
        else:
            context.send_all(outputs)


def timestamp_of(end_ms: int) -> int:
    """Return the timestamp of the record for a closed window, in milliseconds: the window's last one.

    Kafka has no timestamps before 1970. Windows that end earlier have the first one that can be sent.
    """
    return max(1, end_ms - 1)


def timestamp_within(row: WindowKey, time_ms: int) -> int:
    """Return the timestamp of the record for a window, in milliseconds: stream time, but not outside of the window. See
    `timestamp_of`."""
    _, start_ms, end_ms = row
    return min(timestamp_of(end_ms), max(1, start_ms, time_ms))
