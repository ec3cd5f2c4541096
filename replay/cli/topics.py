"""`anabranch topics`: what there is, how it is spread, how it could be."""

from __future__ import annotations

from typing import Any

import click

from .common_options import cluster_options, format_options, log_to_stderr, on_ground

__all__ = ["topics"]


@click.group(invoke_without_command=True)
@cluster_options
@click.pass_context
def topics(context: click.Context, bootstrap_server: str | None, options: tuple[str, ...]) -> None:
    """List topics with their partitions, records, plan and skew.

    Skew is what the fullest partition has, as a multiple of an even share. Records are offsets in use: a transaction's
    end takes one too, and a packed batch no more than one.

    \b
    Examples:
      anabranch topics
      anabranch topics plan 'orders/*.jsonl' --key user --partitions 8
    """
    if context.invoked_subcommand:
        return
    from .topics_output import list_topics

    log_to_stderr(None)
    with on_ground(bootstrap_server, options) as place:
        list_topics(place.cluster)


@topics.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE…")
@click.option("-k", "--key", metavar="FIELD", help="Field that becomes the record's key.")
@click.option("--partitions", type=click.IntRange(2, 10_000), required=True, help="To spread over.")
@click.option("--sample", type=click.IntRange(1), default=100_000, show_default=True, help="Records to look at.")
@format_options
def plan(sources: tuple[str, ...], key: str | None, partitions: int, sample: int, **form: Any) -> None:
    """Learn from a sample how keys could be spread by range, and how even that would be, and by hash.

    Prints the split points, for `replay --plan` or `app.topic(plan=RangePartitioner.parsed(…))`. Under a range plan
    results come in key order, partition after partition; records that arrive in key order all go to one partition at
    a time.

    \b
    Examples:
      anabranch topics plan 'orders/*.jsonl' --key user --partitions 8
      anabranch replay 'orders/*.jsonl' --to orders --key user --plan range:f,n,t
    """
    from ..runs.inputs import format_of
    from ..sources.history import find_history
    from .partition_chart import sample_keys
    from .topics_output import show_plans

    log_to_stderr(None)
    show_plans(sample_keys(find_history(list(sources), format_of(form, key=key, time=None)), sample), partitions)
