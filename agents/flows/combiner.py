"""Combiner: reduces a batch of records by key, by column where that is cheap and certain to give the same, else by row.

A batch whose states go into a table of this worker can be *pending*: it is kept, and reduced together with other
batches of its epoch and partition when the table is read, at the barrier at the latest.

Invariants.
- A pending batch counts as handled: its failed rows have gone to the failure policy, and nothing about it can raise
  later, except for values in the table that cannot be joined (another agent has written them).
- Then the agent is switched to processing one record at a time, and the epoch is rolled back and reprocessed: one by
  one, nothing is pending, so exactly the records that fail go to the failure policy.
- A function of the flow that reads the flow's own table has what is pending applied, in the middle of a batch that is
  added to it. The epoch is then reprocessed in the same way, and later batches of the flow do not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from ...topics.errors import Stop, described
from ...topics.packed import Rows, row_values
from ..decoded_batches import record_batch
from ..engine.epoch import PendingRefused
from ..engine.runner import this_runner
from ..tables.value_cache import own_copy
from .aggregates import What
from .expressions import Expression, NotVectorizable
from .operators import Keying, Map, is_columnar
from .pieces import Pieces
from .reducers import Reducer, merge_states, reduced

if TYPE_CHECKING:
    import pyarrow

    from ...topics.message import Message
    from ..engine.partition_queue import QueuedBatch
    from ..event import RecordBatch
    from ..stream import Stream
    from ..tables.open_partition import OpenPartition
    from ..tables.table import Table
    from .column_evaluation import Column, Frame
    from .groups import Mask, Panes, Piece

__all__ = [
    "Combiner",
    "Failed",
    "PendingResults",
    "columns_of",
    "give_up",
    "merge",
    "reduce_batch",
    "reduce_into",
    "refused",
    "small_batches_by_column",
]

Failed = list[tuple[int, Exception]]
"""The rows at which a function of the flow failed, as (row number, error)."""

States = dict[object, object]
"""Key -> state."""

_TYPES = {"text": str, "int": int, "bool": bool, "float": float}

# What may be pending in a partition; more is no faster.
_MOST_PENDING_KEYS = 100_000

# Columns cost the same for few rows, so the exact limit matters little.
_LEAST_ROWS = 256
_least_rows = _LEAST_ROWS


@contextmanager
def small_batches_by_column() -> Generator[None]:
    """Execute packed batches of any size by column inside of the block: those of tests have few rows."""
    global _least_rows
    _least_rows = 1
    try:
        yield
    finally:
        _least_rows = _LEAST_ROWS


class Combiner:
    """Reduces batches at the end of a flow.

    Args:
        keying: the flow's operators and keys.
        how: joins elements.
        declared: type of the topic's values.

    Attributes:
        columnar: whether columnar execution is possible: fields, expressions, Python's `sum`, `min`, `max`, aggregates.
        reads_table: whether a function was found to read the table that the batches are reduced into.
    """

    def __init__(self, keying: Keying, how: Reducer, declared: object = None) -> None:
        self._keying, self.how, self._declared = keying, how, declared
        self.reads_table = False
        self._steps = keying.steps
        self._key: What = None
        self._value: What = None
        if keying.keyed is not None:
            self._key, self._value = keying.keyed
        elif self._steps and isinstance(last := self._steps[-1], Map) and isinstance(last.of, Expression):
            self._steps, self._value = self._steps[:-1], last.of
        self.columnar = (
            all(step.columnar for step in self._steps)
            and (keying.topic.key_type in (None, str) if keying.own_key else is_columnar(self._key))
            and (self._value is None or is_columnar(self._value))
            and how.columnar(self._value)
        )

    def by_row(self, messages: Sequence[Message], values: Sequence[object], states: States | None = None) -> States:
        """Reduce records row by row, into new states or given ones; raises whatever the flow's functions raise."""
        return reduced(self._keying.pairs(messages, values), self.how.start, self.how.add, states)

    def each_row(self, messages: Sequence[Message], values: Sequence[object]) -> tuple[States, Failed]:
        """Reduce records row by row. Rows at which a function fails are skipped and returned with their errors, where
        that can be known of each row alone."""
        if not self.how.independent:
            return self.by_row(messages, values), []
        try:
            return self.by_row(messages, values), []
        except Exception:  # noqa: BLE001 (one by one, below, shows whose error it is)
            return self._one_by_one(messages, values)

    def _one_by_one(self, messages: Sequence[Message], values: Sequence[object]) -> tuple[States, Failed]:
        how, states, failed = self.how, States(), Failed()
        for row, (message, value) in enumerate(zip(messages, values, strict=True)):
            try:
                own = States()  # a record counts with all of its elements, or not at all
                for key, element in self._keying.pairs((message,), (value,)):
                    alone = how.start(element)
                    if key in own or key in states:
                        alone = how.add(own[key] if key in own else how.private(states[key]), element)
                    own[key] = alone
                states.update(own)
            except Exception as exc:  # noqa: BLE001 (whatever it raises belongs to its record)
                failed.append((row, exc))
        return states, failed

    def by_column(
        self, batch: pyarrow.RecordBatch, messages: Sequence[Message], own_keys: pyarrow.Array | None = None
    ) -> tuple[States, Failed] | None:
        """Reduce a batch by column; for the result see `each_row`.

        Args:
            batch: the values, a row each.
            messages: the rows, for those that have to be looked at one by one.
            own_keys: the records' own keys, where these count; None where they have none.

        Returns:
            None where the result might differ from that of `each_row`.
        """
        try:
            return self.by_frame(self.frame(batch), batch, messages, own_keys)
        except NotVectorizable:
            return None

    def frame(self, batch: pyarrow.RecordBatch) -> Frame:
        """Return the frame of a batch, in front of the operators.

        Raises:
            NotVectorizable: decoding may refuse some of the rows, or change them.
        """
        from .column_evaluation import Frame

        return Frame(batch, self._declared)

    def by_frame(
        self,
        frame: Frame,
        batch: pyarrow.RecordBatch,
        messages: Sequence[Message],
        own_keys: pyarrow.Array | None,
        panes: Panes | None = None,
    ) -> tuple[States, Failed]:
        """Reduce the rows of a frame that are left; for arguments and result see `by_column`.

        Args:
            panes: see `RowGroups`; with them, the states are by pane, then by key.

        Raises:
            NotVectorizable: the result might differ from that of `each_row`.
        """
        from .groups import RowGroups

        try:
            keys, columns, live, failed = self._read(frame, messages, own_keys)
            groups = RowGroups(keys, live, lambda numbers: self._elements(batch, messages, numbers), panes)
            states = self.how.grouped(groups, columns)
        except NotVectorizable:
            raise
        except Exception as exc:
            if self.how.independent:
                raise
            raise NotVectorizable("an aggregate refuses something: row by row shows whose it is") from exc
        made = dict(zip(groups.keys, states, strict=True)) if panes is None else groups.by_pane(states)
        return cast(States, made), failed

    def _elements(self, batch: pyarrow.RecordBatch, messages: Sequence[Message], numbers: list[int]) -> list[object]:
        """Return the elements of some rows, one each, as `by_row` makes them."""
        decode = self._keying.topic.decode_value
        values = list(map(decode, row_values(batch.take(numbers), "json")))
        elements = [element for _, element in self._keying.pairs([messages[number] for number in numbers], values)]
        assert len(elements) == len(numbers)
        return elements

    def piece(
        self, batch: pyarrow.RecordBatch, messages: Sequence[Message], own_keys: pyarrow.Array | None = None
    ) -> tuple[Piece, Failed] | None:
        """Read a batch by column, to be grouped later, as one with other batches; for the arguments see `by_column`.

        Returns:
            None where the result might differ from that of `each_row`.
        """
        try:
            return self.piece_of(self.frame(batch), messages, own_keys)
        except NotVectorizable:
            return None

    def piece_of(
        self, frame: Frame, messages: Sequence[Message], own_keys: pyarrow.Array | None, panes: Panes | None = None
    ) -> tuple[Piece, Failed]:
        """Read the rows of a frame that are left, to be grouped later; for the arguments see `by_frame`.

        Raises:
            NotVectorizable: grouped with others, the result might differ from that of `each_row`.
        """
        from .groups import Piece

        adds = self.how.adds()
        if adds is None:
            raise NotVectorizable("an aggregate that needs all rows of a batch at once")
        keys, columns, live, failed = self._read(frame, messages, own_keys)
        return Piece.of(keys, columns, live, adds, panes), failed

    def grouped(self, pieces: Iterable[Piece]) -> States:
        """Reduce pieces that go with each other."""
        from .groups import grouped_pieces

        groups, columns = grouped_pieces(pieces)
        return dict(zip(groups.keys, self.how.grouped(groups, columns), strict=True))

    def _read(
        self, frame: Frame, messages: Sequence[Message], own_keys: pyarrow.Array | None
    ) -> tuple[Column, list[Column | None], Mask, Failed]:
        """Return the keys, the columns to reduce, which rows count, and the rows that have failed."""
        for step in self._steps:
            step.apply_columns(frame)
        keys = self._normal(frame.texts(own_keys) if self._keying.own_key else frame.column(self._key))
        frame.set_aside(keys.off)
        value = None if self._value is None else frame.column(self._value)
        if value is not None:
            frame.set_aside(value.bad)
        columns = self.how.columns(frame, value)
        failed = self._failed(frame.aside.nonzero()[0].tolist(), messages) if frame.aside.any() else []
        return keys, columns, frame.live, failed

    def _normal(self, column: Column) -> Column:
        """Return keys in the form that the table has for them.

        Raises:
            NotVectorizable: the table may refuse some, or change them.
        """
        exact = self._keying.exact
        column = column if bool in exact else column.unflagged()
        if _TYPES.get(column.kind, str) not in exact:
            raise NotVectorizable(f"keys: {column.kind}, and the table is declared to have others")
        return column

    def _failed(self, rows: list[int], messages: Sequence[Message]) -> Failed:
        """Process the rows set aside one by one; each of them fails or is filtered out."""
        decode = self._keying.topic.decode_value
        failed: Failed = []
        for row in rows:
            message = messages[row]
            data = message.value()
            assert data is not None  # a packed batch has no tombstones
            states, failures = self._one_by_one((message,), (decode(data),))
            if states:
                raise NotVectorizable("a row set aside has no error")
            failed.extend((row, error) for _, error in failures)
        return failed


class PendingResults:
    """Pending changes of one partition, reduced into a table together; see `OpenPartition.defer`.

    They are rows that are reduced by column, or states of rows that were reduced one by one, but not both: the order of
    rows is kept.
    """

    def __init__(self, stream: Stream, combiner: Combiner) -> None:
        self._stream, self._combiner = stream, combiner
        self._pieces = Pieces()
        self._states = States()
        self._is_applied = False

    def add(self, piece: Piece) -> bool:
        """Keep one more piece; return False where it does not go with the others, or would be too much."""
        return not self._states and self._pieces.add(piece)

    def add_rows(self, messages: Sequence[Message], values: Sequence[object]) -> bool:
        """Reduce records row by row; return False where they do not go with the others, or would be too much. Raises
        whatever the flow's functions raise; then the epoch has to be rolled back.

        Raises:
            PendingRefused: a function has read the table, and with it a part of these records; likewise.
        """
        if self._pieces or len(self._states) > _MOST_PENDING_KEYS:
            return False
        self._combiner.by_row(messages, values, self._states)
        if self._is_applied:
            self._combiner.reads_table = True
            raise PendingRefused("a function of the flow reads the flow's table")
        return True

    def apply_to(self, partition: OpenPartition) -> None:
        """Reduce the pieces, or the states, into the partition.

        Raises:
            PendingRefused: the table holds a value that cannot be joined; the epoch has to be rolled back.
        """
        try:
            states = self._combiner.grouped(self._pieces) if self._pieces else self._states
            merge(partition, self._combiner.how, states)
            self._is_applied = True
        except Stop:
            raise
        except Exception as exc:
            raise refused(self._stream, partition.table, exc) from exc


def refused(stream: Stream, table: Table, error: Exception) -> PendingRefused:
    """Return the error of pending changes that cannot be applied, and have the records of their stream isolated.

    If the stream's own agent runs, the engine isolates them. Were they isolated already, it would blame the record at
    hand.
    """
    runner = this_runner()
    if runner is None or runner.stream is not stream:
        stream.queue.isolating = True
    return PendingRefused(f"table {table.name}: {described(error)}")


def columns_of(batch: QueuedBatch | RecordBatch, combiner: Combiner) -> Rows | None:
    """Return the rows of a packed batch if columnar execution is to be tried."""
    rows = batch.messages
    if not combiner.columnar or len(rows) < _least_rows or not isinstance(rows, Rows):
        return None
    return rows if rows.package.open().kind == "json" else None


def reduce_batch(stream: Stream, batch: QueuedBatch, combiner: Combiner, states: States | None = None) -> States:
    """Return key -> state of a batch.

    Args:
        states: states of batches before it, which are changed and returned; None: there are none. Where a function
            raises, they hold a part of the batch, and the epoch has to be rolled back.

    An element that a function refuses makes the function raise here or, where the functions are known to have no side
    effects, goes to the failure policy at once.
    """
    rows = columns_of(batch, combiner)
    done = None if rows is None else combiner.by_column(rows.columns(), rows, rows.key_column())
    if rows is None or done is None:
        decoded = record_batch(stream, batch)
        rows = columns_of(decoded, combiner)
        if rows is None:
            return combiner.by_row(decoded.messages, decoded.values, states)
        if len(rows) < len(batch.messages):  # what decoding has refused may be all that columns could not do
            done = combiner.by_column(rows.columns(), rows, rows.key_column())
        done = done or combiner.each_row(rows, decoded.values)
    give_up(stream, rows, done[1])
    return done[0] if states is None else merge_states(states, done[0], combiner.how.merge)


def reduce_into(stream: Stream, batch: QueuedBatch, combiner: Combiner, table: Table) -> None:
    """Reduce a batch into a table. Where possible, it waits for others of its epoch and partition; for errors see
    `reduce_batch`."""
    if stream.queue.isolating or combiner.reads_table or not table.defers:
        states = reduce_batch(stream, batch, combiner)
        merge(table.opened_to_write(), combiner.how, states, isolating=stream.queue.isolating)
        return
    rows = columns_of(batch, combiner)
    made = None if rows is None else combiner.piece(rows.columns(), rows, rows.key_column())
    if rows is not None and made is not None:
        piece, failed = made
        _defer(stream, batch, combiner, table, lambda pending: pending.add(piece))
        give_up(stream, rows, failed)
    elif rows is not None:
        merge(table.opened_to_write(), combiner.how, reduce_batch(stream, batch, combiner))
    else:
        decoded = record_batch(stream, batch)
        _defer(stream, batch, combiner, table, lambda pending: pending.add_rows(decoded.messages, decoded.values))


def _defer(
    stream: Stream, batch: QueuedBatch, combiner: Combiner, table: Table, add: Callable[[PendingResults], bool]
) -> None:
    """Add to the pending results of a partition; where that is refused, apply them first."""
    partition = table.at_hand()
    assert partition is not None  # an agent runs
    pending = cast("PendingResults | None", partition.pending.get(batch.at.topic))
    if pending is None or not add(pending):
        pending = PendingResults(stream, combiner)
        add(pending)
        partition.defer(batch.at.topic, pending)


def give_up(stream: Stream, rows: Rows, failed: Failed) -> None:
    """Apply the failure policy to rows that have failed."""
    for row, error in failed:
        stream.context.apply_policy(stream, rows[row], error, "agent")


def merge(partition: OpenPartition, how: Reducer, states: States, *, isolating: bool = False) -> None:
    """Join states with the values of a table's partition, all or none.

    Args:
        isolating: the record may be rolled back alone, so the table's values are copied before a function that can
            fail changes them in place.
    """
    keys = list(states)
    known = partition.get_many(keys)
    if isolating:
        known = list(map(own_copy, known))
    partition.put(dict(zip(keys, how.joined(known, states.values()), strict=True)))
