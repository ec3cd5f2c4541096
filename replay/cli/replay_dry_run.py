"""`anabranch replay --dry-run`: what would happen, without writing anything, and without starting a broker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import Stop
from ...topics.partitioner_registry import PartitionerRegistry
from ...topics.partitioners import HashPartitioner, Partitioner
from ..pipeline.dry_run import DryRun, survey
from ..pipeline.pace import Pace
from ..pipeline.packing import check_packable
from ..pipeline.partitioning import place
from ..pipeline.pipeline import Pipeline
from ..player import DEFAULT_PARTITIONS
from ..replay_report import NEAR_1970
from ..run_registry import RunRegistry
from ..sources.file_history import FileHistory
from ..sources.format import OnBadLine
from ..sources.source import Replayable
from ..sources.source_record import SourceRecord
from ..time_text import shown_ms, shown_time
from .console import out
from .replay_output import say, show_columns
from .replay_plot import write_plot

__all__ = ["partitioner_of", "preview"]

# Enough to see an order and a spread; more is read only for a picture.
_READ_RECORDS = 200_000

_SHOWN_PARTS = 10
_SHOWN_CHARS = 90


def partitioner_of(cluster: Cluster, topic: str, partitions: int) -> Partitioner:
    """How the keys of a topic that exists map to its partitions."""
    return PartitionerRegistry(cluster).check(topic, partitions, None)


def preview(
    history: Replayable,
    course: Pipeline,
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
) -> None:
    """Show it.

    Args:
        cluster: to look at the topic and the run; None where there is no broker yet.
        plot: where a picture goes; all of the sources is read for it.
        on_bad_line: what would become of bad lines.
        value_type: of the topic, where it is known.

    Raises:
        Stop: the replay would stop at a bad line.
    """
    course.checked(history, pace)
    history.check(topic)
    if packed:
        check_packable(history)
    run = run_id or course.run_id(history, topic, packed=packed)
    there, state = 0, None
    if cluster is not None:
        runs = RunRegistry(cluster)
        known = Admin(cluster).partitions([topic, runs.topic])
        there = known.get(topic, 0)
        if there:
            partitioner = partitioner_of(cluster, topic, there)
        state = runs.read(run) if runs.topic in known else None
    if state is None:
        stands = "new"
    elif state.done:
        stands = f"finished: {state.sent:,} records were sent, and nothing would be"
    else:
        stands = f"would go on after {state.sent:,} records"
    partitioner = partitioner or HashPartitioner(partitions or history.partitions or DEFAULT_PARTITIONS)
    found = survey(history, course, partitioner, most=None if plot else _READ_RECORDS, value_type=value_type)
    show_survey(
        found, history, course, pace, topic=topic, partitioner=partitioner, there=bool(there), run=f"{run}, {stands}"
    )
    if plot is not None:
        write_plot(found, f"replay → {topic}", plot)
    if found.bad and on_bad_line == "fail":
        raise Stop(
            f"the replay would stop: {found.examples[0]}",
            hint="--on-bad-line skip leaves such lines out, dead-letter keeps them in a topic of their own",
        )


def show_survey(
    found: DryRun,
    history: Replayable,
    course: Pipeline,
    pace: Pace,
    *,
    topic: str,
    partitioner: Partitioner,
    there: bool,
    run: str,
) -> None:
    """What a replay would do.

    Args:
        there: the topic exists.
        run: how far the run is, in words.
    """
    out.print("[bold]dry run[/bold]: nothing is written", markup=True, highlight=False)
    order = "merged by time" if course.merges(history) else "one after another"
    size = f"{history.size_bytes:,} bytes" if history.size_bytes else "of unknown size"
    names = [part.name for part in history.parts] or list(history.specs)
    say("sources", f"{len(names):,}, {size}, {order if len(names) > 1 else 'in its order'}")
    for name in names[:_SHOWN_PARTS]:
        say("", name)
    if len(names) > _SHOWN_PARTS:
        say("", f"… and {len(names) - _SHOWN_PARTS:,} more")
    say("run", run)
    say("topic", f"{topic}, {partitioner.partitions} partitions" + ("" if there else "; it would be made"))
    read = "" if found.whole else f"; estimated from the first {found.records + found.notes.left_out:,}"
    about = "" if found.whole else "about "
    each = "" if course.rounds == 1 else f" a round, {course.rounds or 'endless'} rounds"
    say("records", f"{about}{found.in_all:,}{each}{read}")
    if found.notes.left_out:
        say("left out", f"{found.notes.left_out:,}")
    if found.over_time.counts():
        begin_ms, end_ms = found.over_time.span_ms
        say("time", f"{shown_time(begin_ms)} … {shown_time(end_ms)} ({shown_ms(end_ms - begin_ms)})")
    if found.notes.late:
        worst = shown_ms(found.notes.late_ms)
        say("late", f"{found.notes.late:,} records, by {worst} at most: see --disorder")
    if found.bad:
        say("bad lines", f"{found.bad:,}, for example {found.examples[0]}")
    show_columns(found.profile, dict(history.schema.format.inferred) if isinstance(history, FileHistory) else {})
    if found.near_1970:
        say("near 1970", f"{found.near_1970:,} records; {NEAR_1970}")
    say("spread", _spread(found.partitions, partitioner.partitions))
    takes_s = found.takes_s(pace, course.rounds)
    if takes_s is not None:
        say("takes", f"about {shown_ms(takes_s * 1000)}")
    for number, item in enumerate(found.first):
        say("" if number else "first", _shown_item(item, partitioner, number))


def _spread(counts: Mapping[int, int], partitions: int) -> str:
    total = sum(counts.values()) or 1
    return "  ".join(f"{p}: {counts.get(p, 0):,} ({counts.get(p, 0) / total:.0%})" for p in range(partitions))


def _shown_item(item: SourceRecord, partitioner: Partitioner, number: int) -> str:
    (partition,) = place([item], partitioner, number)
    key = "-" if item[0] is None else item[0].decode(errors="replace")
    value = (item[1] or b"").decode(errors="replace")
    cut = value if len(value) <= _SHOWN_CHARS else value[: _SHOWN_CHARS - 1] + "…"
    return "  ".join([*([shown_time(item[2])] if item[2] else []), f"partition {partition}", key, cut])
