"""`anabranch unpack`: copy a topic, converting packed batches to plain records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .. import signals
from .common_options import LEVELS, bad_line_option, choose_cluster, cluster_options
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ..sources.format import OnBadLine

__all__ = ["unpack"]


@click.command()
@click.argument("topic")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="TOPIC",
    help="Target topic; created with as many partitions as TOPIC if it does not exist.",
)
@click.option("--run-id", help="Id of the run.  [default: derived from the two topics]")
@bad_line_option("What to do with a packed batch that is damaged or too large.")
@click.option("-l", "--loglevel", type=LEVELS, default="warn", show_default=True)
@cluster_options
def unpack(
    topic: str,
    target: str,
    run_id: str | None,
    on_bad_line: OnBadLine,
    loglevel: str,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Copy TOPIC to another topic, converting packed batches to plain records for consumers that do not support them.

    Each row becomes a record with its key, value, time, partition and order; plain records are copied unchanged. The
    copy is exactly-once and resumable, and ends at the end that TOPIC had at the first start. A packed batch that is
    damaged or exceeds the limits (`ANABRANCH_PACKED_ROWS` and others) counts as a bad line.

    \b
    Examples:
      anabranch unpack trips --to trips-plain
    """
    from ...topics.partitioner_registry import PartitionerRegistry
    from ..pipeline.pipeline import Pipeline
    from ..player import Player
    from ..sources.format import Format
    from ..sources.topic_source import SCHEME, TopicHistory
    from .replay_output import ReplayView, show_replay

    log_to_stderr(loglevel)
    with choose_cluster(bootstrap_server, options) as choice, ReplayView() as view:
        player = Player(
            choice.cluster,
            TopicHistory(choice.cluster, SCHEME + topic.removeprefix(SCHEME), Format(), unpack=True),
            target,
            # Any order of partitions will do: the order within each partition is always kept.
            pipeline=Pipeline(order="source"),
            partitioner=PartitionerRegistry(choice.cluster)
            .of([topic.removeprefix(SCHEME)])
            .get(topic.removeprefix(SCHEME)),
            run_id=run_id,
            on_bad_line=on_bad_line,
        )
        signals.call_on_signal(player.stop)
        report = player.play(lambda progress: view.replaying(f"unpack → {target}", progress))
    show_replay(report)
    if signals.received() and not report.done:
        raise SystemExit(signals.exit_code())
