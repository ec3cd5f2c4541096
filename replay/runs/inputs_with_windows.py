"""Bounded runs of apps with windows: which inputs have an end that windows wait for, and what was late."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...agents.tables.window_table import WindowTable
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import Usage
from ...topics.headers import headers_of
from ...topics.partition_reader import read_to_end
from ...topics.topic_partition import TopicPartition

__all__ = ["late_records", "refuse_windows", "windowed_topics"]


def windowed_topics(app: App) -> dict[str, str]:
    """Return topic in Kafka -> name of a table with windows of its records."""
    tables = [table for table in runtime_of(app).tables if isinstance(table, WindowTable)]
    return {table.spec.source: table.name for table in tables}


def refuse_windows(windowed: Mapping[str, str], inputs: Collection[str]) -> None:
    """Refuse a run whose windows would not close.

    Args:
        windowed: see `windowed_topics`.
        inputs: the topics that the run has inputs for.

    Raises:
        Usage: there is such a table.
    """
    for topic, table in sorted(windowed.items()):
        if topic not in inputs:
            raise Usage(
                f"the windows of table {table} are of topic {topic}, which has no input in this run: they would never "
                "close",
                hint="windows of a topic that the app itself writes are not supported in bounded runs yet; otherwise "
                "--input TOPIC=PATH",
            )


def late_records(
    cluster: Cluster, app: App, ranges: Mapping[TopicPartition, tuple[int, int]] | None = None
) -> dict[tuple[str, str | None], int]:
    """Count the late records of each table with windows, by the headers of the records (blocking).

    Args:
        ranges: count only records within these offsets of their topics; None counts all.

    Returns:
        (table, topic with its late records) -> number of them; 0 for tables whose late records are dropped, with None.
    """
    tables = [table for table in runtime_of(app).tables if isinstance(table, WindowTable)]
    found: dict[tuple[str, str | None], int] = {(table.name, table.spec.late_topic): 0 for table in tables}
    admin = Admin(cluster)
    there = admin.partitions({table.spec.late_topic for table in tables if table.spec.late_topic is not None})
    for topic, count in there.items():
        begins, ends = admin.spans((topic, partition) for partition in range(count))
        for run in read_to_end(cluster, begins, ends):
            for message in run.messages:
                headers = dict(headers_of(message) or ())
                operator = (headers.get("anabranch-operator") or b"").decode(errors="replace")
                if (operator, topic) in found and (ranges is None or _within(headers.get("anabranch-source"), ranges)):
                    found[operator, topic] += 1
    return found


def _within(source: bytes | None, ranges: Mapping[TopicPartition, tuple[int, int]]) -> bool:
    """Return whether the record that a header names, as `topic[partition]@offset`, is within ranges of offsets."""
    at = re.fullmatch(rb"(.+)\[(\d+)\]@(\d+)(?:#\d+)?", source or b"")
    if at is None:
        return False
    begin, end = ranges.get(TopicPartition(at[1].decode(errors="replace"), int(at[2])), (0, 0))
    return begin <= int(at[3]) < end
