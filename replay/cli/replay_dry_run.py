"""`anabranch replay --dry-run`: show what a replay would do, without writing anything and without starting a broker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import Stop
from ...topics.partitioner_registry import PartitionerRegistry
from ...topics.partitioners import HashPartitioner, Partitioner
from ...topics.private_fields import NOTHING, PrivateFields
from ..pipeline.dry_run import DryRun, perform_dry_run
from ..pipeline.pace import Pace
from ..pipeline.packing import check_packable
from ..pipeline.partitioning import record_partitions
from ..pipeline.pipeline import Pipeline
from ..player import DEFAULT_PARTITIONS
from ..replay_report import NEAR_1970
from ..run_state import RunRegistry
from ..sources.file_history import FileHistory
from ..sources.format import OnBadLine
from ..sources.source import Replayable
from ..sources.source_record import SourceRecord
from ..time_text import format_duration_ms, format_time
from .console import counted, out
from .replay_output import print_field, show_columns
from .replay_plot import write_plot

__all__ = ["dry_run", "partitioner_of"]

# Enough to show the order and the partitions; --plot reads everything.
_READ_RECORDS = 200_000

_SHOWN_PARTS = 10
_SHOWN_CHARS = 90


def partitioner_of(cluster: Cluster, topic: str, partitions: int) -> Partitioner:
    """Return how the keys of an existing topic map to its partitions."""
    return PartitionerRegistry(cluster).check(topic, partitions, None)


def dry_run(
    history: Replayable,
    pipeline: Pipeline,
    pace: Pace,
    topic: str,
    *,
    cluster: Cluster | None,
    run_id: str | None = None,
    partitions: int | None = None,
    partitioner: Partitioner | None = None,
    packed: bool = False,
    plot: Path | None = None,
    on_bad_line: OnBadLine = "skip",
    value_type: object = None,
    private: PrivateFields = NOTHING,
) -> None:
    """Print what a replay would do.

    Args:
        cluster: cluster with the topic and the run; None if no broker runs yet.
        plot: file for a picture; the sources are then read to their end.
        on_bad_line: what the replay would do with bad lines.
        value_type: value type of the topic, if it is known.
        private: the topic's private fields, which are not printed.

    Raises:
        Stop: the replay would stop at a bad line.
    """
    pipeline.checked(history, pace)
    history.check(topic)
    if packed:
        check_packable(history)
    run = run_id or pipeline.run_id(history, topic, packed=packed)
    there, state = 0, None
    if cluster is not None:
        runs = RunRegistry(cluster)
        known = Admin(cluster).partitions([topic, runs.topic])
        there = known.get(topic, 0)
        if there:
            partitioner = partitioner_of(cluster, topic, there)
        state = runs.read(run) if runs.topic in known else None
    if state is None:
        progress = "new"
    elif state.done:
        progress = f"finished after {counted(state.sent, 'record')}: nothing would be written"
    else:
        progress = f"would resume after {counted(state.sent, 'record')}"
    partitioner = partitioner or HashPartitioner(partitions or history.partitions or DEFAULT_PARTITIONS)
    found = perform_dry_run(
        history,
        pipeline,
        partitioner,
        max_records=None if plot else _READ_RECORDS,
        value_type=value_type,
        private=private,
    )
    run = f"{run}, {progress}"
    _show(found, history, pipeline, pace, topic=topic, partitioner=partitioner, there=bool(there), run=run)
    if plot is not None:
        write_plot(found, f"replay → {topic}", plot)
    if found.bad and on_bad_line == "fail":
        raise Stop(
            f"the replay would stop at a bad line: {found.examples[0]}",
            hint=f"--on-bad-line skip omits such lines, --on-bad-line dead-letter sends them to {topic}.dlq",
        )


def _show(
    found: DryRun,
    history: Replayable,
    pipeline: Pipeline,
    pace: Pace,
    *,
    topic: str,
    partitioner: Partitioner,
    there: bool,
    run: str,
) -> None:
    """Print the findings.

    Args:
        there: whether the topic exists.
        run: the run's id and progress.
    """
    out.print("[bold]dry run[/bold]: nothing is written", markup=True, highlight=False)
    order = ", merged by time" if pipeline.merges(history) else ", read one after another"
    size = f"{history.size_bytes:,} bytes" if history.size_bytes else "unknown size"
    names = [part.name for part in history.parts] or list(history.specs)
    print_field("sources", f"{len(names):,} ({size}{order if len(names) > 1 else ''})")
    for name in names[:_SHOWN_PARTS]:
        print_field("", name)
    if len(names) > _SHOWN_PARTS:
        print_field("", f"… and {len(names) - _SHOWN_PARTS:,} more")
    print_field("run", run)
    print_field(
        "topic", f"{topic}, {counted(partitioner.partitions, 'partition')}" + ("" if there else " (would be created)")
    )
    read = "" if found.complete else f"; estimated from the first {found.records + found.counters.filtered_out:,}"
    about = "" if found.complete else "about "
    each = "" if pipeline.rounds == 1 else f" per round, {pipeline.rounds or 'unlimited'} rounds"
    print_field("records", f"{about}{found.estimated_records:,}{each}{read}")
    if found.counters.filtered_out:
        print_field("filtered", f"{found.counters.filtered_out:,}")
    if found.over_time.counts():
        begin_ms, end_ms = found.over_time.range_ms
        print_field(
            "time", f"{format_time(begin_ms)} … {format_time(end_ms)} ({format_duration_ms(end_ms - begin_ms)})"
        )
    if found.counters.out_of_order:
        worst = format_duration_ms(found.counters.out_of_order_ms)
        print_field(
            "unordered", f"{counted(found.counters.out_of_order, 'record')}, by at most {worst}; see --out-of-order"
        )
    if found.bad:
        print_field("bad lines", f"{found.bad:,}, for example {found.examples[0]}")
    show_columns(found.profile, dict(history.schema.format.inferred) if isinstance(history, FileHistory) else {})
    if found.near_1970:
        print_field("near 1970", f"{counted(found.near_1970, 'record')}; {NEAR_1970}")
    print_field("partitions", _by_partition(found.partitions, partitioner.partitions))
    estimated_s = found.estimated_s(pace, pipeline.rounds)
    if estimated_s is not None:
        print_field("duration", f"about {format_duration_ms(estimated_s * 1000)}")
    for number, item in enumerate(found.first):
        print_field("" if number else "first", _shown_item(item, partitioner, number, found.profile.private))


def _by_partition(counts: Mapping[int, int], partitions: int) -> str:
    total = sum(counts.values()) or 1
    return "  ".join(f"{p}: {counts.get(p, 0):,} ({counts.get(p, 0) / total:.0%})" for p in range(partitions))


def _shown_item(item: SourceRecord, partitioner: Partitioner, number: int, private: PrivateFields) -> str:
    (partition,) = record_partitions([item], partitioner, number)
    shown_key, shown_value = private.key_bytes(item[0], item[1]), private.value_bytes(item[1])
    key = "-" if shown_key is None else shown_key.decode(errors="replace")
    value = (shown_value or b"").decode(errors="replace")
    cut = value if len(value) <= _SHOWN_CHARS else value[: _SHOWN_CHARS - 1] + "…"
    return "  ".join([*([format_time(item[2])] if item[2] else []), f"partition {partition}", key, cut])
