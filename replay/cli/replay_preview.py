"""`anabranch replay --dry-run`: what would happen, without writing anything, and without starting a broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import Stop
from ...topics.partitioner_registry import PartitionerRegistry
from ...topics.partitioners import HashPartitioner, Plan
from ..pipeline.dry_run import survey
from ..pipeline.pace import Pace
from ..pipeline.packing import check_packable
from ..pipeline.pipeline import Pipeline
from ..player import DEFAULT_PARTITIONS
from ..run_registry import RunRegistry
from ..sources.format import OnBadLine
from ..sources.source import Replayable
from .replay_output import show_survey
from .replay_plot import write_plot

__all__ = ["plan_of", "preview"]

# Enough to see an order and a spread; more is read only for a picture.
_READ_RECORDS = 200_000


def plan_of(cluster: Cluster, topic: str, partitions: int) -> Plan:
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
    plan: Plan | None = None,
    packed: bool = False,
    plot: Path | None = None,
    on_bad_line: OnBadLine = "skip",
    value_type: Any = None,
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
            plan = plan_of(cluster, topic, there)
        state = runs.read(run) if runs.topic in known else None
    if state is None:
        stands = "new"
    elif state.done:
        stands = f"finished: {state.sent:,} records were sent, and nothing would be"
    else:
        stands = f"would go on after {state.sent:,} records"
    plan = plan or HashPartitioner(partitions or history.partitions or DEFAULT_PARTITIONS)
    found = survey(history, course, plan, most=None if plot else _READ_RECORDS, value_type=value_type)
    show_survey(found, history, course, pace, topic=topic, plan=plan, there=bool(there), run=f"{run}, {stands}")
    if plot is not None:
        write_plot(found, f"replay → {topic}", plot)
    if found.bad and on_bad_line == "fail":
        raise Stop(
            f"the replay would stop: {found.examples[0]}",
            hint="--on-bad-line skip leaves such lines out, dead-letter keeps them in a topic of their own",
        )
