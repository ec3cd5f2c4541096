"""The verification of a bounded run: what its result depends on, and digests of its tables and output topics.

Digests do not depend on the order of records. That of a table is the one of `anabranch tables --digest`; that of a
topic is of keys, values, headers and times, but not of partitions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from ...agents.app import App
from ...agents.order_dependence import has_float_sum, order_dependence
from ...agents.runtime import runtime_of
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ..sources.format import Format
from ..table_reader import Snapshot, TableReader
from ..verify.comparison import digest_of
from ..verify.comparison_side import find_side
from .inputs import Input
from .inputs_with_timers import timers_left
from .inputs_with_windows import held_jumps

if TYPE_CHECKING:
    from .run_report import RunReport

__all__ = ["Digest", "RunVerification", "verify_run"]

Holds = Literal["any order", "this log", "nothing"]


class Digest(NamedTuple):
    """The content of a table or an output topic."""

    name: str
    records: int
    digest: str


@dataclass(slots=True)
class RunVerification:
    """What the result of a run depends on.

    Attributes:
        late: late records of all tables.
        closed: records that were on time, and came after their window had closed.
        dropped: tables whose late records are dropped, so that they are not counted.
        held_jumps: records so far ahead of event time that they did not move it; see `agents/event_time/channel.py`.
        has_windows: whether the app has windows that may close before the end.
        agents: agents for which the order of records in their partitions may matter.
        reasons: why not even the same logs give the same result.
        digests: of tables and output topics, if they were asked for.
        unfired: agent -> number of its timers that timers have set behind the end of the input, and that did not fire.
    """

    late: int = 0
    closed: int = 0
    dropped: list[str] = field(default_factory=list[str])
    held_jumps: int = 0
    has_windows: bool = False
    agents: list[str] = field(default_factory=list[str])
    reasons: list[str] = field(default_factory=list[str])
    digests: list[Digest] = field(default_factory=list[Digest])
    unfired: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def order_matters(self) -> list[str]:
        """Why another order of arrival may give another result, as sentences."""
        found = [f"late records: {self.late:,}"] if self.late else []
        found += [f"records that came after their window had closed: {self.closed:,}"] if self.closed else []
        found += [f"late records of {', '.join(self.dropped)} are not counted"] if self.dropped else []
        if self.agents:
            found.append(f"{', '.join(self.agents)} may depend on the order within partitions")
        return [*self.reasons, *found]

    @property
    def holds(self) -> Holds:
        """Which orders of arrival give the same result."""
        if self.reasons or self.closed:
            return "nothing"
        return "this log" if self.order_matters else "any order"

    @property
    def sentence(self) -> str:
        """What holds, in words."""
        if self.holds == "any order":
            return f"any order of arrival{' in which no record is late' if self.has_windows else ''} gives this result"
        if self.holds == "this log":
            return "the same order of records in each partition gives this result, another one may not"
        return "another run may give another result"

    def facts(self) -> dict[str, object]:
        """Return it as plain JSON."""
        return {
            "holds": self.holds,
            "because": self.order_matters,
            "late": self.late,
            "late_closed": self.closed,
            "held_jumps": self.held_jumps,
            "digests": {digest.name: {"records": digest.records, "digest": digest.digest} for digest in self.digests},
        }


def verify_run(
    cluster: Cluster,
    app: App,
    inputs: Iterable[tuple[str, Input]],
    aligned: Mapping[int, Collection[str]],
    report: RunReport,
    outputs: Collection[str] | None = None,
) -> RunVerification:
    """Return the verification of a run that has ended (blocking).

    Args:
        inputs: the topics in Kafka of the inputs, with the inputs.
        aligned: phase -> topics that are aligned in it.
        report: what is known of late records, and of the result.
        outputs: topics in Kafka whose digests are wanted, besides those of all tables; None: no digests.
    """
    runtime, phases = runtime_of(app), dict[str, list[int]]()
    for topic, given in inputs:
        phases.setdefault(topic, []).append(given.phase)
    depends = order_dependence(runtime, phases, {topic for topics in aligned.values() for topic in topics})
    snapshots = {} if report.snapshot is None else {report.snapshot.table.name: report.snapshot}
    if outputs is not None:
        tables = [table for table in runtime.tables if table.name not in snapshots]
        snapshots |= {table.name: TableReader(cluster, table, may_be_new=not report.records).read() for table in tables}
    timers = timers_left(cluster, app, may_be_new=not report.records)
    found = RunVerification(
        late=sum(report.late.values()),
        closed=report.late_closed,
        dropped=sorted(table for table, topic in report.late if topic is None),
        has_windows=bool(report.late) and not runtime.waits_for_end,
        agents=depends.agents,
        reasons=[*depends.reasons, *timers.reasons, *_float_sums(app, snapshots)],
        unfired=timers.unfired,
    )
    if report.late:
        found.held_jumps = held_jumps(cluster, runtime.group_id, phases)
    if outputs is not None:
        found.digests = [Digest(f"table {name}", len(of), of.digest()) for name, of in sorted(snapshots.items())]
        there = Admin(cluster).partitions(outputs)
        for topic in sorted(there):
            found.digests.append(Digest(f"topic {topic}", *digest_of(find_side(f"topic://{topic}", Format(), cluster))))
    return found


def _float_sums(app: App, snapshots: Mapping[str, Snapshot]) -> list[str]:
    """Return why sums of floats make the result depend on how records are grouped."""
    found: list[str] = []
    for flow in runtime_of(app).flows:
        table = flow.target.removeprefix("table ")
        if not flow.sums or not flow.target.startswith("table "):
            continue
        snapshot = snapshots.get(table)
        if snapshot is None:
            found.append(f"sums of table {table} may differ in their last digits, if they are sums of floats")
        elif any(has_float_sum(value, flow.sums) for _, value in snapshot.items()):
            found.append(f"sums of floats in table {table} may differ in their last digits")
    return found
