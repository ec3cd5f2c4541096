"""`anabranch replay`: replay files, a socket, an archive or a topic into a topic."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from .. import signals
from .common_options import (
    LEVELS,
    CommandWithPack,
    allow_late_option,
    bad_line_option,
    choose_cluster,
    cluster_options,
    format_options,
    named_app,
    pack_option,
    running_cluster,
    show_private_option,
)
from .logs import log_to_stderr
from .pipeline_options import RecordOptions, pace_of, pipeline_of, pipeline_options

if TYPE_CHECKING:
    from ..app_loader import Runtime
    from ..pipeline.packing import Compression
    from ..sources.format import OnBadLine

__all__ = ["replay"]


@click.command(cls=CommandWithPack)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE…")
@click.option(
    "--to",
    "topic",
    required=True,
    metavar="TOPIC",
    help="Target topic; created with 4 partitions if it does not exist.",
)
@click.option("-k", "--key", metavar="EXPR", help="Field or expression for the record's key.")
@click.option("-t", "--time", metavar="EXPR", help="Field or expression for the record's time.")
@click.option("--partitions", type=click.IntRange(1), help="Partitions of a topic that is created.")
@click.option("--partitioner", metavar="range:G,P", help="How keys map to a new topic's partitions, where not by hash.")
@click.option(
    "--dry-run", is_flag=True, help="Show sources, columns, partitions, duration and first records; write nothing."
)
@click.option(
    "--plot",
    metavar="FILE.svg",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw records by event time and partition; reads the sources a second time.",
)
@click.option("--run-id", help="Id of the run.  [default: derived from sources, options and topic]")
@bad_line_option("What to do with a line or row that is not a record.")
@click.option("--follow", is_flag=True, help="Socket: reconnect when it closes. Topic: keep reading at its end.")
@click.option(
    "--spool", metavar="FILE", help="Socket: write received lines to FILE first, so that a crash loses nothing."
)
@click.option(
    "--from", "begin", metavar="WHERE", help="Topic: start at earliest, an offset, a time, or an age such as 6h."
)
@click.option(
    "--until", metavar="WHERE", help="Topic: stop at an offset, a time or an age.  [default: its current end]"
)
@click.option("--by-partition", is_flag=True, help="Topic: read one partition after another.")
@click.option(
    "--repartition", is_flag=True, help="Topic or archive: choose partitions by key hash instead of keeping them."
)
@allow_late_option
@click.option("-l", "--loglevel", type=LEVELS, default="warn", show_default=True)
@pack_option
@pipeline_options
@format_options
@show_private_option
@cluster_options
@click.pass_context
def replay(
    context: click.Context,
    sources: tuple[str, ...],
    topic: str,
    key: str | None,
    time: str | None,
    partitions: int | None,
    partitioner: str | None,
    dry_run: bool,
    plot: Path | None,
    run_id: str | None,
    on_bad_line: OnBadLine,
    follow: bool,
    spool: str | None,
    begin: str | None,
    until: str | None,
    by_partition: bool,
    repartition: bool,
    allow_late: bool,
    loglevel: str,
    pack: Compression | None,
    bootstrap_server: str | None,
    options: tuple[str, ...],
    **form: Unpack[RecordOptions],
) -> None:
    """Replay files, a socket of lines, an archive or another topic into a topic, each record exactly once.

    SOURCE is a file, a glob, a folder or a URL of text, CSV, JSON Lines, Parquet or Avro files, which may be compressed
    (.gz .zst .bz2) or inside a .zip (all of it, or archive.zip!member); the folder of an archive or topic://NAME, whose
    records keep keys, headers, times, partitions and order; or tcp://host:port.

    After a crash, the same command resumes where it left off; after it has finished, it writes nothing. A socket cannot
    be read again: lines that were received but not committed before a crash are lost, unless --spool FILE is given.

    Records that would be late for windows of an app that reads TOPIC are refused before anything is sent, unless
    --allow-late is given. With -A APP, their times are those that the app declares, otherwise their timestamps.

    An EXPR is a field (a.b.c) or an expression: carrier + "-" + origin, f"{carrier}-{flight}", name.lower()[:3].
    Folders named year=2013/month=01 add these fields.

    \b
    Examples:
      anabranch replay data.txt --to lines --key-before ,
      anabranch replay flights.csv.zip --to flights --key carrier --time time_hour --null NA
      anabranch replay 'day/*.csv' --to trips --time at --out-of-order sort:1000    # sorted by time over all files
      anabranch replay 'lake/**/*.parquet' --to flights --key 'carrier + "-" + origin' --header year=year
      anabranch replay trips.csv --to trips --time at --speed 60x --start 2013-01-31 --where 'fare > 100'
      anabranch replay trips.csv --to trips --time at --dry-run --plot trips.svg
      anabranch replay 'lake/**/*.parquet' --to trips --key zone --pack         # packed batches
      anabranch replay archive/orders --to orders-again
      anabranch replay topic://orders --to orders-copy --from 2013-01-01 --until 6h
      anabranch replay topic://orders --to orders-shared --pseudonym email --pseudonym-key env:PSEUDONYM_KEY
      nc -lk 9999 & anabranch replay tcp://localhost:9999 --to lines --key-before , --spool lines.spool
    """
    from ...topics.admin import Admin
    from ...topics.partitioners import RangePartitioner
    from ..late_history import late_check
    from ..pipeline.dry_run import perform_dry_run
    from ..player import Player
    from ..runs.inputs import format_of
    from ..shown_fields import private_fields
    from ..source_resolver import names_topic, resolve_source
    from .console import err
    from .replay_dry_run import dry_run as show_dry_run
    from .replay_dry_run import partitioner_of
    from .replay_output import ReplayView, show_replay
    from .replay_plot import checked_plot, write_plot

    log_to_stderr(loglevel)
    pipeline, pace = pipeline_of(form), pace_of(form)
    find = partial(
        resolve_source,
        sources,
        format_of(form, key=key, time=time),
        follow=follow,
        bounds=(begin, until),
        by_partition=by_partition,
        repartition=repartition,
        spool=spool,
    )
    # Errors in files are reported before a broker is started.
    found = None if any(map(names_topic, sources)) else find()
    if plot is not None:
        checked_plot(plot)
    if dry_run:
        cluster = running_cluster(bootstrap_server, options)
        private = private_fields(cluster, topic, context.obj)
        show_dry_run(
            found or find(cluster=cluster),
            pipeline,
            pace,
            topic,
            cluster=cluster,
            run_id=run_id,
            partitions=partitions,
            partitioner=RangePartitioner.parsed(partitioner) if partitioner else None,
            packed=pack is not None,
            plot=plot,
            on_bad_line=on_bad_line,
            value_type=_value_type(named_app(context), topic),
            private=private,
        )
        return
    runtime = named_app(context)
    with choose_cluster(bootstrap_server, options) as choice, ReplayView() as view:
        history = found or find(cluster=choice.cluster)
        player = Player(
            choice.cluster,
            history,
            topic,
            pipeline=pipeline,
            pace=pace,
            run_id=run_id,
            partitions=partitions,
            partitioner=RangePartitioner.parsed(partitioner) if partitioner else None,
            on_bad_line=on_bad_line,
            pack=pack,
            value_type=_value_type(runtime, topic),
            private=private_fields(choice.cluster, topic, context.obj),
            check=late_check(
                choice.cluster,
                topic,
                pipeline,
                app=None if runtime is None else runtime.app,
                allow=allow_late,
                note=err.print,
            ),
        )
        signals.call_on_signal(player.stop)
        report = player.play(lambda progress: view.replaying(f"replay → {topic}", progress))
        if plot is not None and report.done:
            placed = partitioner_of(choice.cluster, topic, Admin(choice.cluster).partitions([topic])[topic])
            write_plot(perform_dry_run(history, pipeline, placed), f"replay → {topic}", plot)
    show_replay(report)
    if signals.received() and not (report.done or follow):
        raise SystemExit(signals.exit_code())


def _value_type(runtime: Runtime | None, topic: str) -> object:
    """Return the value type that an app declares for a topic; None if it declares none, or if there is no app."""
    if runtime is None:
        return None
    from ..app_loader import value_type_of

    return value_type_of(runtime.app, topic)
