"""`anabranch unpack`: the rows of a topic's packed batches as plain records in another topic."""

from __future__ import annotations

import click

from .. import signals
from .common_options import LEVELS, choose_cluster, cluster_options
from .logs import log_to_stderr

__all__ = ["unpack"]


@click.command()
@click.argument("topic")
@click.option("--to", "target", required=True, metavar="TOPIC", help="Made like TOPIC where it does not exist.")
@click.option("--run-id", help="Name of the run; else it follows from the two topics.")
@click.option("--on-bad-line", type=click.Choice(["fail", "skip", "dead-letter"]), default="fail", show_default=True)
@click.option("-l", "--loglevel", type=LEVELS, default="warn", show_default=True)
@cluster_options
def unpack(
    topic: str,
    target: str,
    run_id: str | None,
    on_bad_line: str,
    loglevel: str,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Turn the packed batches of TOPIC into plain records of another topic, for readers that know only those.

    Each row becomes a record with its key, value, time, partition and order; what is plain already goes as it is. Each
    once and resumable, as every replay of a topic: the end is that of TOPIC as it stood at the first start. A packed
    batch that is damaged, or larger than is taken (`ANABRANCH_PACKED_ROWS` and so on), is a bad line.

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
    with choose_cluster(bootstrap_server, options) as place, ReplayView() as view:
        player = Player(
            place.cluster,
            TopicHistory(place.cluster, SCHEME + topic.removeprefix(SCHEME), Format(), unpack=True),
            target,
            # Within a partition the order is kept whatever comes first.
            course=Pipeline(order="source"),
            partitioner=PartitionerRegistry(place.cluster)
            .of([topic.removeprefix(SCHEME)])
            .get(topic.removeprefix(SCHEME)),
            run_id=run_id,
            on_bad_line=on_bad_line,  # pyright: ignore[reportArgumentType] (click has checked it)
        )
        signals.stopping(player.stop)
        report = player.play(lambda progress: view.replaying(f"unpack → {target}", progress))
    show_replay(report)
    if signals.told() and not report.done:
        raise SystemExit(signals.exit_code())
