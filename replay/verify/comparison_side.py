"""One side of a comparison: the records of files, an archive, a topic or a table, and the position of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from ...agents.tables.stream_time import STREAM_TIME
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.control_records import carries_control, records_of
from ...topics.errors import BadRecord, Usage
from ...topics.headers import copied_headers
from ...topics.message import Message
from ...topics.packed import is_packed, packed_rows
from ...topics.partition_reader import read_to_end
from ...topics.printable import utf8, without_passwords
from ...topics.private_texts import shown_text
from ...topics.spelling import did_you_mean
from ..archive import ArchiveHistory, is_archive
from ..archive.archive_reader import read_archived_file
from ..archive.record_columns import RecordColumns
from ..source_resolver import names_topic, resolve_source
from ..sources.column_batch import ColumnBatch
from ..sources.format import Format
from ..sources.source import Replayable, Source, SourcePosition
from ..sources.source_record import SourceRecord
from ..sources.topic_source import TopicHistory
from ..table_reader import refuse_split_keys

__all__ = ["ComparedBatch", "ComparisonSide", "find_side"]

logger = logging.getLogger("anabranch.verify")

TABLE = "table://"
_ROWS = 5_000
_STALLED_S = 120.0


@dataclass(frozen=True, slots=True)
class ComparedBatch:
    """Records of a side.

    Attributes:
        position: returns the position of the n-th record.
        unreadable: lines and rows that could not be read, each with position and reason.
    """

    records: Sequence[SourceRecord]
    position: Callable[[int], str]
    unreadable: Sequence[str] = ()


class ComparisonSide(Protocol):
    """A side of a comparison.

    Attributes:
        timed: its records have timestamps of their own.
        partitions: number of partitions that its records are in; None if they name none.
    """

    @property
    def name(self) -> str: ...

    @property
    def timed(self) -> bool: ...

    @property
    def partitions(self) -> int | None: ...

    @property
    def topic(self) -> str | None:
        """The topic that the records are or were in, if there is one."""
        ...

    def batches(self) -> Iterator[ComparedBatch]:
        """Yield all records, from the beginning at each call."""
        ...


def find_side(spec: str, format: Format, cluster: Cluster | None) -> ComparisonSide:
    """Find the side that a user names: files, an archive's folder, `topic://NAME`, `table://APP/TABLE`.

    Args:
        format: the format of files.

    Raises:
        Usage: it does not exist.
    """
    if spec.startswith(TABLE):
        return _TableSide(spec, cluster)
    history = resolve_source([spec], Format() if names_topic(spec) else _file_format(spec, format), cluster=cluster)
    if isinstance(history, TopicHistory):
        assert cluster is not None
        return _TopicSide(history, cluster)
    if isinstance(history, ArchiveHistory):
        return _Archive(history)
    if not history.resumable:
        raise Usage(f"{spec}: it can be read only once, so it cannot be compared")
    return _Files(spec, history)


def _file_format(spec: str, format: Format) -> Format:
    return Format() if is_archive(Path(spec)) else format


class _TopicSide:
    def __init__(self, history: TopicHistory, cluster: Cluster) -> None:
        self.name, self.timed, self.partitions = history.specs[0], True, history.partitions
        self.topic: str | None = history.topic
        self._history, self._cluster = history, cluster

    def batches(self) -> Iterator[ComparedBatch]:
        begins, ends = self._history.offset_range.begins, self._history.offset_range.ends
        for run in read_to_end(self._cluster, begins, ends, stalled_s=_STALLED_S):
            messages = [message for message in run.messages if message.offset() < ends[run.at]]
            if carries_control(run.at[0]):
                messages = records_of(messages)
            partition = run.at[1]
            records: list[SourceRecord] = [
                (m.key(), m.value(), m.timestamp()[1], headers, partition)
                for m, headers in zip(messages, copied_headers(messages), strict=True)
            ]
            yield from _rows(records, partial(self._position_of, messages))

    def _position_of(self, messages: Sequence[Message], number: int) -> str:
        message = messages[number]
        return f"{message.topic()}[{message.partition()}] offset {message.offset():,}"


def _rows(records: list[SourceRecord], position: Callable[[int], str]) -> Iterator[ComparedBatch]:
    """Yield records unchanged, and packed batches as their rows."""
    begin = 0
    for number, record in enumerate(records):
        if record[3] and is_packed(record[3]):
            yield ComparedBatch(records[begin:number], partial(_shifted, position, begin))
            begin = number + 1
            try:
                rows = ColumnBatch.unpacked(record[1] or b"", record[2], record[4], packed_rows(record[3]))
            except BadRecord as exc:
                logger.warning("%s: %s; the message is compared as it is", position(number), exc)
                begin = number
                continue
            yield ComparedBatch(rows, partial(_row_of, position(number)))
    yield ComparedBatch(records[begin:], partial(_shifted, position, begin))


def _shifted(position: Callable[[int], str], begin: int, number: int) -> str:
    return position(begin + number)


def _row_of(position: str, row: int) -> str:
    return f"{position}#{row}"


class _Archive:
    def __init__(self, history: ArchiveHistory) -> None:
        self.name, self.timed, self.partitions = history.specs[0], True, history.partitions
        self.topic: str | None = history.manifest.topic
        self._history = history

    def batches(self) -> Iterator[ComparedBatch]:
        history = self._history
        history.check("")
        for entry in history.manifest.files:
            at = f"{entry.name}: {history.manifest.topic}[{entry.partition}]"
            for rows in read_archived_file(history.folder, entry, history.manifest.encoding, _ROWS):
                yield from _rows(rows.to_records(entry.partition), partial(_row, at, rows))


def _row(position: str, rows: RecordColumns, number: int) -> str:
    return f"{position} offset {rows.offsets[number]:,}"


class _Files:
    def __init__(self, spec: str, history: Replayable) -> None:
        self.name, self.timed, self.partitions = without_passwords(utf8(spec)), history.timed, None
        self.topic: str | None = None
        self._history = history

    def batches(self) -> Iterator[ComparedBatch]:
        for part in self._history.parts:
            source = part.open(None, _ROWS)
            try:
                before = source.begins
                while not source.ended:
                    found = source.next_batch()
                    unreadable = [bad.described for bad in found.bad]
                    yield ComparedBatch(found.records, partial(_line, part.name, part.open, before), unreadable)
                    before = found.after
            finally:
                source.close()


def _line(
    name: str, open_part: Callable[[SourcePosition | None, int], Source], before: SourcePosition, number: int
) -> str:
    """Return file and line (or row) of the n-th record after a position, by reading again from there."""
    source = open_part(before, 1)
    try:
        passed, here = 0, source.begins
        while True:
            found = source.next_batch()
            passed += len(found.records)
            if passed > number or source.ended:
                break
            here = found.after
    finally:
        source.close()
    return f"{name}:{here['line'] + 1}" if "line" in here else f"{name}: record {here.get('row', number) + 1:,}"


class _TableSide:
    """A table, read from its changelog; `APP` is an app's id, or `APP-run-ID` of a bounded run.

    With `?local` a key may be in several partitions, and each partition is compared with its counterpart.
    """

    timed = False

    def __init__(self, spec: str, cluster: Cluster | None) -> None:
        named, query, option = spec.removeprefix(TABLE).partition("?")
        app, slash, self._table = named.rpartition("/")
        if not slash or not app or not self._table or (query and option != "local"):
            raise Usage(
                f"{spec}: not a table",
                hint="table://APP/TABLE, or table://APP-run-ID/TABLE of a bounded run; with ?local at its end where "
                "the same key may be in several partitions",
            )
        if cluster is None:
            raise Usage(f"{spec}: no broker is running", hint="--bootstrap-server HOST:PORT")
        self.name, self._cluster, self._local = spec, cluster, bool(option)
        topic = f"{app}-{self._table}-changelog"
        self.topic: str | None = topic
        admin = Admin(cluster)
        count = admin.partitions([topic]).get(topic)
        if count is None:
            changelogs = [name for name in admin.partitions() if name.endswith("-changelog")]
            raise Usage(
                f"{spec}: there is no changelog {topic} on {cluster.bootstrap_servers}",
                hint=did_you_mean(topic, changelogs),
            )
        self.partitions = count if self._local else None
        self._at = [(topic, partition) for partition in range(count)]

    def batches(self) -> Iterator[ComparedBatch]:
        begins, ends = Admin(self._cluster).spans(self._at)
        parts: list[dict[bytes, bytes]] = [{} for _ in self._at]
        offsets: list[dict[bytes, int]] = [{} for _ in self._at]
        for run in read_to_end(self._cluster, begins, ends, stalled_s=_STALLED_S):
            part, offsets_by_key = parts[run.at[1]], offsets[run.at[1]]
            for message in run.messages:
                key, value = message.key(), message.value()
                if key == STREAM_TIME:
                    continue  # how far the table is in event time, which depends on partitions and not on its content
                if value is None:
                    part.pop(key, None)
                else:
                    part[key], offsets_by_key[key] = value, message.offset()
        if not self._local:
            refuse_split_keys(self._table, parts, _pair, f", and compare {self.name}?local")
        records: list[SourceRecord] = [
            (key, value, 0, None, partition if self._local else None)
            for partition, part in enumerate(parts)
            for key, value in part.items()
        ]
        positions = [
            f"{self.topic}[{partition}] offset {offsets_by_key[key]:,}"
            for partition, (part, offsets_by_key) in enumerate(zip(parts, offsets, strict=True))
            for key in part
        ]
        yield ComparedBatch(records, positions.__getitem__)


def _pair(pair: tuple[bytes, bytes]) -> str:
    return shown_text(" = ".join(data.decode("utf-8", "backslashreplace") for data in pair))
