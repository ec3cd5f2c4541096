"""The step of an agent that is being executed, as tables see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .open_partition import TrackedValue
    from .table import Table

__all__ = ["AgentStep", "IsolatedWriter", "MovedKeys"]


class IsolatedWriter:
    """An agent whose records are isolated, as the writer of partitions of tables: what it has written since its last
    savepoint is checked, kept and rolled back alone. Other agents may be in the middle of their records meanwhile.
    """

    __slots__ = ()


class MovedKeys(dict[object, IsolatedWriter]):
    """Keys of a partition that were moved into the epoch although the savepoint of their agent has not checked them,
    because another agent has turned to the partition: key -> the agent that has written it last."""

    __slots__ = ()

    def note(self, writer: IsolatedWriter | None, written: Iterable[object], deleted: Iterable[object]) -> None:
        """Note that keys are moved now; what other agents have written there is not in the epoch any more."""
        if self:
            for key in deleted:
                self.pop(key, None)
        if writer is not None:
            self.update(dict.fromkeys(written, writer))
        elif self:
            for key in written:
                self.pop(key, None)

    def of(self, writer: IsolatedWriter | None) -> list[object]:
        """Return the keys of an agent."""
        return [key for key, by in self.items() if by is writer]


class AgentStep:
    """The running step of an agent: its coroutine runs from one suspension to the next, at one partition at a time.

    A table opens by itself when an agent first touches it in a step (`Table.opened`), and the end of the step closes
    it. So tables that an agent does not touch cost nothing.

    Attributes:
        running: whether an agent runs that has a record.
        topic, partition: the partition of this record.
        tracked: receives the mutable values that the agent reads or writes during this record; see `end_record`.
        writer: the agent, if its records are isolated.
        opened: the tables that were touched.
    """

    __slots__ = ("opened", "partition", "running", "topic", "tracked", "writer")

    def __init__(self) -> None:
        self.running = False
        self.topic, self.partition = "", -1
        self.tracked: list[TrackedValue] = []
        self.writer: IsolatedWriter | None = None
        self.opened: list[Table] = []

    def begin(
        self, topic: str, partition: int, tracked: list[TrackedValue], writer: IsolatedWriter | None = None
    ) -> None:
        """Begin a step, or go on at another partition."""
        if self.opened:
            self._close()
        self.topic, self.partition, self.tracked, self.writer = topic, partition, tracked, writer
        self.running = True

    def end(self) -> None:
        """End the step: the agent is suspended."""
        self.running = False
        if self.opened:
            self._close()

    def _close(self) -> None:
        for table in self.opened:
            table.close()
        self.opened.clear()
