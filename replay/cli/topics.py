"""`anabranch topics`: list topics with their skew, and compare partitioners for a sample of keys."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import click

from ...topics.errors import AnabranchError, Usage
from ...topics.printable import printable
from ...topics.topic_partition import TopicPartition
from .common_options import FormatOptions, choose_cluster, cluster_options, format_options
from .console import counted, err, folding, out
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ...topics.admin import Admin
    from ...topics.cluster import Cluster
    from ...topics.partitioners import Partitioner
    from ..sources.source import Replayable

__all__ = ["topics"]

_BAR = 30

# How long offsets of a topic are asked for that its broker does not know: it may be new, or deleted.
_PATIENCE_S = 5.0


@click.group(invoke_without_command=True)
@cluster_options
@click.pass_context
def topics(context: click.Context, bootstrap_server: str | None, options: tuple[str, ...]) -> None:
    """List topics with their partitions, records, skew and partitioner.

    Records are counted by offsets: transaction markers count, too, and a packed batch counts as one. Skew is the size
    of the largest partition as a multiple of the average.

    \b
    Examples:
      anabranch topics
      anabranch topics splits 'orders/*.jsonl' --key user --partitions 8
    """
    if context.invoked_subcommand:
        return
    log_to_stderr(None)
    with choose_cluster(bootstrap_server, options) as choice:
        list_topics(choice.cluster)


@topics.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE…")
@click.option("-k", "--key", metavar="FIELD", help="Field or expression for the record's key.")
@click.option("--partitions", type=click.IntRange(2, 10_000), required=True, help="Number of partitions.")
@click.option("--sample", type=click.IntRange(1), default=100_000, show_default=True, help="Records to read.")
@format_options
def splits(
    sources: tuple[str, ...], key: str | None, partitions: int, sample: int, **format: Unpack[FormatOptions]
) -> None:
    """Derive a range partitioner from a sample of keys, and compare its skew with that of hash partitioning.

    Prints the split points for `replay --partitioner` or `app.topic(partitioner=RangePartitioner.parsed(…))`. With a
    range partitioner, results are in key order, partition after partition; records that arrive in key order go to one
    partition at a time.

    \b
    Examples:
      anabranch topics splits 'orders/*.jsonl' --key user --partitions 8
      anabranch replay 'orders/*.jsonl' --to orders --key user --partitioner range:f,n,t
    """
    from ..runs.inputs import format_of
    from ..sources.file_history import find_history

    log_to_stderr(None)
    show_partitioners(
        sample_keys(find_history(list(sources), format_of(format, key=key, time=None)), sample), partitions
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """Number of records in each partition.

    >>> Spread((30, 10)).skew
    1.5
    """

    counts: tuple[int, ...]

    @classmethod
    def of(cls, keys: Sequence[bytes], partitioner: Partitioner) -> Spread:
        """Count keys by the partition that a partitioner chooses."""
        counts = [0] * partitioner.partitions
        for partition in partitioner.partitions_of(keys):
            counts[partition] += 1
        return cls(tuple(counts))

    @property
    def skew(self) -> float:
        """Size of the largest partition as a multiple of the average; 1.0 if all are equal."""
        total = sum(self.counts)
        return max(self.counts) * len(self.counts) / total if total else 1.0


def sample_keys(history: Replayable, most: int) -> list[bytes]:
    """Return the keys of the first records of a history, without records that have no key.

    Args:
        most: number of keys.

    Raises:
        Usage: no record has a key.
    """
    source, keys = history.open(None), list[bytes]()
    try:
        while len(keys) < most and not source.ended:
            items = source.next_batch().records
            if not items and source.poll_again_s:
                break
            keys += [item[0] for item in items if item[0] is not None]
    finally:
        source.close()
    if not keys:
        raise Usage("the sample has no keys", hint="--key FIELD names the key's field")
    return keys[:most]


def list_topics(cluster: Cluster) -> None:
    """Print all topics except Kafka's internal ones (blocking)."""
    from rich.table import Table as Grid

    from ...topics.admin import Admin
    from ...topics.partitioner_registry import PartitionerRegistry

    counts, begins, ends = _spans(Admin(cluster, patience_s=_PATIENCE_S))
    partitioners = PartitionerRegistry(cluster).of(counts)
    grid = folding(Grid("topic", "partitions", "records", "skew", "partitioner", header_style="bold"))
    for column in grid.columns[1:4]:
        column.justify = "right"
    for name, n in counts.items():
        spread = Spread(tuple(ends[at] - begins[at] for at in (TopicPartition(name, p) for p in range(n))))
        grid.add_row(name, str(n), f"{sum(spread.counts):,}", f"{spread.skew:.2f}", str(partitioners.get(name, "hash")))
    out.print(grid)


def _spans(admin: Admin) -> tuple[dict[str, int], dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Return topic -> number of partitions, and the offsets of `Admin.spans`; topics deleted meanwhile are left out.

    Raises:
        AnabranchError: the broker does not answer.
    """
    counts = _counts(admin)
    while True:
        try:
            return counts, *admin.spans((name, p) for name, n in counts.items() for p in range(n))
        except AnabranchError:
            now = _counts(admin)
            left = {name: n for name, n in counts.items() if now.get(name) == n}
            if left == counts:
                raise
            counts = left


def _counts(admin: Admin) -> dict[str, int]:
    return {name: n for name, n in sorted(admin.partitions().items()) if not name.startswith("__")}


def show_partitioners(keys: Sequence[bytes], partitions: int) -> None:
    """Print the skew of a hash and of a range partitioner for a sample of keys, and the split points of the latter."""
    from ...topics.partitioners import HashPartitioner, RangePartitioner

    learned = RangePartitioner.learned(keys, partitions)
    err.print(f"{counted(len(keys), 'record')}, {counted(len(set(keys)), 'key')}")
    partitioners: dict[str, Partitioner] = {"hash": HashPartitioner(partitions), "range": learned}
    for name, partitioner in partitioners.items():
        spread = Spread.of(keys, partitioner)
        err.print(f"[bold]{name}[/bold]  skew {spread.skew:.2f}", markup=True)
        for p, count in enumerate(spread.counts):
            bar = "█" * round(_BAR * count / max(spread.counts))
            first_key = learned.splits[p - 1].decode(errors="backslashreplace") if name == "range" and p else ""
            err.print(f"  {p:>4}  {count / len(keys):6.1%}  {bar:<{_BAR}}  {first_key}", highlight=False)
    sys.stdout.write(f"{printable(learned, one_line=True)}\n")
