"""Bounded runs of apps with windows: which inputs have an end that windows wait for, and what was late."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...agents.tables.window_table import WindowTable
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import Usage
from ...topics.headers import headers_of
from ...topics.partition_reader import read_to_end

__all__ = ["late_records", "refuse_windows", "windowed_topics"]


def windowed_topics(app: App) -> dict[str, str]:
    """Return topic in Kafka -> name of a table with windows of its records."""
    tables = [table for table in runtime_of(app).tables if isinstance(table, WindowTable)]
    return {table.spec.source: table.name for table in tables}


def refuse_windows(windowed: Mapping[str, str], inputs: Collection[str], *, into_live: bool = False) -> None:
    """Refuse a run whose windows would not close, or would close on records of the live topic.

    Args:
        windowed: see `windowed_topics`.
        inputs: the topics that the run has inputs for.

    Raises:
        Usage: there is such a table.
    """
    for topic, table in sorted(windowed.items()):
        if into_live:
            raise Usage(
                f"--into-live with windows (table {table}): history is older than the live topic's watermark, so its "
                "records would be late",
                hint="a run of its own, without --into-live, has the windows of the history",
            )
        if topic not in inputs:
            raise Usage(
                f"the windows of table {table} are of topic {topic}, which has no input in this run: they would never "
                "close",
                hint="windows of a topic that the app itself writes are not supported in bounded runs yet; otherwise "
                "--input TOPIC=PATH",
            )


def late_records(cluster: Cluster, app: App) -> dict[tuple[str, str | None], int]:
    """Count the late records of each table with windows, by the headers of the records (blocking).

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
                operator = dict(headers_of(message) or ()).get("anabranch-operator") or b""
                if (at := (operator.decode(errors="replace"), topic)) in found:
                    found[at] += 1
    return found
