"""`anabranch tail`: show the last records of a topic, and follow it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ...topics import clock
from ...topics.errors import BadRecord, Usage
from ...topics.printable import printable
from ...topics.topic_partition import TopicPartition
from .common_options import choose_cluster, cluster_options, show_private_option
from .completion import complete_topics
from .console import write_json
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ...topics.cluster import Cluster
    from ...topics.message import Message
    from ...topics.private_fields import PrivateFields
    from ..sources.field_expression import FieldExpression

__all__ = ["tail"]

_FOLLOW_S = 0.2


@dataclass(frozen=True, slots=True)
class ShownRecord:
    """A record, or a row of a packed batch, which has the batch's offset and a number of its own."""

    topic: str
    partition: int
    offset: int
    row: int | None
    time_ms: int
    key: bytes | None
    value: bytes | None

    def without(self, private: PrivateFields) -> ShownRecord:
        """Return the record with its private fields hidden."""
        if not private:
            return self
        key, value = private.key_bytes(self.key, self.value), private.value_bytes(self.value)
        return replace(self, key=key, value=value)

    @property
    def text(self) -> str:
        """One line for people."""
        from ..time_text import format_time

        row = "" if self.row is None else f"#{self.row}"
        time = format_time(self.time_ms) if self.time_ms >= 0 else "-"
        key, value = ("null" if data is None else data.decode(errors="replace") for data in (self.key, self.value))
        return f"{time} {self.topic}[{self.partition}]@{self.offset}{row}  {key}  {value}"

    @property
    def facts(self) -> dict[str, object]:
        """The same for `--json`; a value that is JSON is shown as such, else as text."""
        row = {} if self.row is None else {"row": self.row}
        place = {"topic": self.topic, "partition": self.partition, "offset": self.offset, **row}
        key = None if self.key is None else self.key.decode(errors="replace")
        return {**place, "time_ms": self.time_ms, "key": key, "value": _decoded(self.value)}


@click.command()
@click.argument("topic", shell_complete=complete_topics)
@click.option("-n", "most", type=click.IntRange(0), default=10, show_default=True, help="Number of last records.")
@click.option("-f", "--follow", is_flag=True, help="Show new records until Ctrl-C.")
@click.option(
    "-o", "--from", "begin", metavar="WHEN", help="Show all from an offset, a time, an age (15m), or earliest."
)
@click.option("--until", default="latest", metavar="WHEN", show_default=True, help="Show none from here on.")
@click.option("-p", "--partition", type=click.IntRange(0), help="Only this partition.")
@click.option("--key", help="Only records with this key.")
@click.option("--where", metavar="EXPR", help="Only records for which the expression over the value's fields holds.")
@click.option("-J", "--json", "as_json", is_flag=True, help="Print JSON lines.")
@show_private_option
@cluster_options
@click.pass_context
def tail(
    context: click.Context,
    topic: str,
    most: int,
    follow: bool,
    begin: str | None,
    until: str,
    partition: int | None,
    key: str | None,
    where: str | None,
    as_json: bool,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Show the last committed records of TOPIC: time, partition, offset, key, value.

    Private fields are shown as ***: those that apps in this cluster or the app of -A declare.

    Packed batches are shown row by row. Records of several partitions are in the order of their times; with --from and
    --follow, in the order in which they are read.

    \b
    Examples:
      anabranch tail orders
      anabranch tail orders -f --where 'amount > 100'
      anabranch tail orders --from 15m --key ann -J
      anabranch tail orders.dlq -n 1
    """
    from ...topics.admin import Admin
    from ..shown_fields import private_fields
    from ..sources.field_expression import expression
    from ..sources.offset_range import OffsetBound, resolve_offset_range

    log_to_stderr(None)
    if follow and until != "latest":
        raise Usage("--follow has no end", hint="omit --until or --follow")
    holds = _Filter(None if key is None else key.encode(), None if where is None else expression(where))
    bounds = OffsetBound.parse(begin or "earliest"), OffsetBound.parse(until)
    with choose_cluster(bootstrap_server, options) as choice:
        admin = Admin(choice.cluster)
        counts = admin.partitions([topic])
        if topic not in counts:
            raise admin.no_topic(topic)
        numbers = range(counts[topic]) if partition is None else [partition]
        places = [TopicPartition(topic, number) for number in numbers if number < counts[topic]]
        now_ms = clock.now_ms()
        offsets = resolve_offset_range(choice.cluster, places, *bounds, now_ms)
        since_ms, until_ms = (bound.time_ms(now_ms) for bound in bounds)
        span = _Span(offsets.begins, offsets.ends, offsets.last_ends, since_ms, until_ms)
        private = private_fields(choice.cluster, topic, context.obj)
        write = _show_json if as_json else _show_line

        def show(record: ShownRecord) -> None:
            write(record.without(private))

        try:
            if begin is None:
                for record in _last(choice.cluster, span, most, holds):
                    show(record)
            else:
                for record in _read(choice.cluster, span):
                    if holds(record):
                        show(record)
            if follow:
                for record in _follow(choice.cluster, span.ends):
                    if holds(record):
                        show(record)
        except KeyboardInterrupt:
            if not follow:
                raise


class _Filter:
    """The conditions of `--key` and `--where`."""

    def __init__(self, key: bytes | None, where: FieldExpression | None) -> None:
        self._key, self._where = key, where

    def __call__(self, record: ShownRecord) -> bool:
        if self._key is not None and record.key != self._key:
            return False
        if self._where is None:
            return True
        value = _decoded(record.value)
        try:
            return bool(self._where(value if isinstance(value, dict) else {"value": value}))
        except ValueError:  # a record without the field
            return False


@dataclass(frozen=True, slots=True)
class _Span:
    """The records of a topic that are shown: offsets by partition, and times at which packed batches are cut.

    Attributes:
        begins, ends, last_ends: see `OffsetRange`.
        since_ms: of the packed batch at `begins`, rows before the first one with this time are left out. None: none.
        until_ms: of the packed batch at `ends`, which is the first one with such a row, the rows before that row are
            read. None: nothing is.
    """

    begins: dict[TopicPartition, int]
    ends: dict[TopicPartition, int]
    last_ends: dict[TopicPartition, int]
    since_ms: int | None
    until_ms: int | None

    @property
    def stops(self) -> dict[TopicPartition, int]:
        """The offsets up to which records have to be read."""
        if self.until_ms is None:
            return self.ends
        return {at: min(end + 1, self.last_ends[at]) for at, end in self.ends.items()}

    def cut(self, at: TopicPartition, records: Iterable[ShownRecord]) -> Iterator[ShownRecord]:
        """Yield the records that belong to it; all rows of a batch have to be among `records`."""
        begun = ended = False
        for record in records:
            if record.offset == self.begins[at] and self.since_ms is not None and record.row is not None:
                begun = begun or record.time_ms >= self.since_ms
                if not begun:
                    continue
            if record.offset >= self.ends[at]:
                ended = ended or record.row is None or self.until_ms is None or record.time_ms >= self.until_ms
                if ended:
                    continue
            yield record


def _last(cluster: Cluster, span: _Span, most: int, holds: _Filter) -> list[ShownRecord]:
    """Return the last `most` records, by time; reads further back until there are enough (blocking)."""
    count = max(20, 2 * most)
    while most:
        starts = {at: max(span.begins[at], end - count) for at, end in span.ends.items()}
        found = [record for record in _read(cluster, replace(span, begins=starts)) if holds(record)]
        if len(found) >= most or starts == span.begins:
            return sorted(found, key=lambda record: record.time_ms)[-most:]
        count *= 8
    return []


def _read(cluster: Cluster, span: _Span) -> Iterator[ShownRecord]:
    from ...topics.partition_reader import read_to_end

    stops = span.stops
    for run in read_to_end(cluster, span.begins, stops):
        messages = [message for message in run.messages if (message.offset() or 0) < stops[run.at]]
        yield from span.cut(run.at, _records(run.at, messages))


def _follow(cluster: Cluster, starts: dict[TopicPartition, int]) -> Iterator[ShownRecord]:
    from ...topics.partition_reader import Reader

    reader = Reader(cluster)
    try:
        reader.add(starts)
        while True:
            for run in reader.read(_FOLLOW_S):
                yield from _records(run.at, run.messages)
    finally:
        reader.close()


def _records(at: TopicPartition, messages: Iterable[Message]) -> Iterator[ShownRecord]:
    from ...topics.control_records import carries_control, is_control
    from ...topics.headers import headers_of
    from ...topics.packed import Packed, is_packed

    with_control = carries_control(at.topic)
    for message in messages:
        if with_control and is_control(message):
            continue
        key, value, time_ms = message.key(), message.value(), message.timestamp()[1]
        place = at.topic, at.partition, message.offset() or 0
        if value is None or not is_packed(headers_of(message)):
            yield ShownRecord(*place, None, time_ms, key, value)
            continue
        try:
            packed = Packed(value, time_ms)
            rows = zip(packed.times_ms(), packed.keys(), packed.values(), strict=True)
        except BadRecord as exc:
            yield ShownRecord(*place, None, time_ms, key, f"({exc.args[0]})".encode())
            continue
        for number, row in enumerate(rows):
            yield ShownRecord(*place, number, *row)


def _decoded(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return value.decode(errors="replace")


def _show_line(record: ShownRecord) -> None:
    sys.stdout.write(printable(record.text, one_line=True) + "\n")
    sys.stdout.flush()


def _show_json(record: ShownRecord) -> None:
    write_json(record.facts)
