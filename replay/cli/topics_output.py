"""Topics for a person to look at."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.table import Table as Grid

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.partitioner_registry import PartitionerRegistry
from ...topics.partitioners import HashPartitioner, Plan, RangePartitioner
from ...topics.printable import printable
from .partition_chart import Spread
from .run_output import err, out

__all__ = ["list_topics", "show_plans"]

_BAR = 30


def list_topics(cluster: Cluster) -> None:
    """All topics but Kafka's own, on the terminal (blocking)."""
    admin = Admin(cluster)
    counts = {name: n for name, n in sorted(admin.partitions().items()) if not name.startswith("__")}
    plans = PartitionerRegistry(cluster).of(counts)
    begins, ends = admin.spans((name, p) for name, n in counts.items() for p in range(n))
    grid = Grid("topic", "partitions", "records", "skew", "plan", header_style="bold")
    for column in grid.columns[1:4]:
        column.justify = "right"
    for name, n in counts.items():
        spread = Spread(tuple(ends[name, p] - begins[name, p] for p in range(n)))
        grid.add_row(name, str(n), f"{sum(spread.counts):,}", f"{spread.skew:.2f}", str(plans.get(name, "hash")))
    out.print(grid)


def show_plans(keys: Sequence[bytes], partitions: int) -> None:
    """What a sample of keys would make of a hash plan and of the range plan that is learned from it."""
    learned = RangePartitioner.learned(keys, partitions)
    err.print(f"{len(keys):,} records, {len(set(keys)):,} keys")
    plans: dict[str, Plan] = {"hash": HashPartitioner(partitions), "range": learned}
    for name, plan in plans.items():
        spread = Spread.of(keys, plan)
        err.print(f"[bold]{name}[/bold]  skew {spread.skew:.2f}", markup=True)
        for place, count in enumerate(spread.counts):
            bar = "█" * round(_BAR * count / max(spread.counts))
            since = learned.splits[place - 1].decode(errors="backslashreplace") if name == "range" and place else ""
            err.print(f"  {place:>4}  {count / len(keys):6.1%}  {bar:<{_BAR}}  {since}", highlight=False)
    sys.stdout.write(f"{printable(learned, one_line=True)}\n")
