"""The records of a topic as a result: a row for each, with its key, its time and its value or the fields of its value.

Rows are in the order of time, then of partition and offset. The whole topic is held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from ..agents.tables.table import Table
from ..agents.topic import Topic
from ..topics.admin import Admin, is_topic_name
from ..topics.cluster import Cluster
from ..topics.control_records import carries_control, records_of
from ..topics.errors import Stop, Usage, described
from ..topics.headers import headers_of
from ..topics.packed import is_packed
from ..topics.partition_reader import read_to_end
from ..topics.spelling import did_you_mean
from .table_reader import check_result_path, key_cells, tabulated, write_rows
from .time_text import format_time

__all__ = ["TopicOutputs", "parse_outputs"]

# A transaction that a killed worker left open ends after its timeout of 10 s; the broker looks every 10 s.
_READ_S = 60.0


def parse_outputs(given: Sequence[str]) -> tuple[Path | None, dict[str, Path]]:
    """Return the file for the table and the files for topics, from values of `--output`: `PATH` or `TOPIC=PATH`.

    Raises:
        Usage: there are several files for the table, or for one topic.
    """
    table: Path | None = None
    topics: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if equals and path and is_topic_name(name):
            if name in topics:
                raise Usage(f"--output {name}=… twice")
            topics[name] = Path(path)
        elif table is None:
            table = Path(text)
        else:
            raise Usage(f"--output {table} and {text}", hint="one file for the table; TOPIC=FILE writes a topic")
    return table, topics


class TopicOutputs:
    """The topics that a bounded run writes to files at its end.

    Args:
        declared: the topics of the program, by the names that it gives them.
        files: topic -> file.
        tables: those of the program, for a hint.

    Raises:
        Usage: the program declares no such topic, or the file cannot be written.
    """

    def __init__(self, declared: Mapping[str, Topic], files: Mapping[str, Path], tables: Iterable[Table] = ()) -> None:
        self._declared, self._files = declared, files
        for name, path in files.items():
            if name not in declared:
                hint = did_you_mean(name, declared, f"it declares: {', '.join(sorted(declared)) or 'none'}")
                if any(name == table.name for table in tables):
                    hint = f"{name} is a table: --table {name} --output {path}"
                raise Usage(f"--output {name}={path}: the program declares no topic {name}", hint=hint)
            check_result_path(path)

    def write(self, cluster: Cluster) -> list[tuple[int, str, Path]]:
        """Write the committed records to the files (blocking).

        Returns:
            For each file its number of records, the topic and the path.

        Raises:
            Stop: a record cannot be decoded, or is a packed batch.
        """
        return [(self._write(cluster, self._declared[name], path), name, path) for name, path in self._files.items()]

    def _write(self, cluster: Cluster, topic: Topic, path: Path) -> int:
        found: list[tuple[int, int, int, object, object]] = []
        admin, name = Admin(cluster), topic.get_topic_name()
        count = admin.partitions([name]).get(name, 0)  # 0: nothing has been sent to it
        # The ends that include open transactions: a stable end may be visible before the last marker (KAFKA-10167).
        begins, ends = admin.spans((name, partition) for partition in range(count))
        for run in read_to_end(cluster, begins, ends, stalled_s=_READ_S):
            messages = records_of(run.messages) if carries_control(name) else run.messages
            for message in messages:
                place = f"{name}[{run.at.partition}]@{message.offset()}"
                if is_packed(headers_of(message)):
                    raise Stop(f"{place} is a packed batch", hint=f"anabranch unpack {name} makes plain records of it")
                key, value = message.key(), message.value()
                try:
                    decoded = (
                        None if key is None else topic.decode_key(key),
                        None if value is None else topic.decode_value(value),
                    )
                except Exception as exc:  # codecs may run the user's code
                    raise Stop(f"{place} cannot be decoded: {described(exc)}") from exc
                found.append((message.timestamp()[1], run.at.partition, message.offset() or 0, *decoded))
        found.sort(key=lambda record: record[:3])
        keys = key_cells([_plain(record[3]) for record in found])
        heads = [[key, format_time(record[0])] for key, record in zip(keys, found, strict=True)]
        write_rows(*tabulated(["key", "time"], heads, [_plain(record[4]) for record in found]), path)
        return len(found)


def _plain(value: object) -> object:
    """Return a key or a value as plain JSON; bytes become text."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    asdict = getattr(value, "asdict", None)
    return msgspec.to_builtins(value if asdict is None else asdict())
