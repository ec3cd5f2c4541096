"""`anabranch run`: an app to the end of history."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from ...topics.errors import Usage
from .common_options import (
    LEVELS,
    CommandWithPack,
    app_name,
    choose_cluster,
    cluster_options,
    format_options,
    pack_option,
)
from .logs import log_to_stderr
from .pipeline_options import RecordOptions, pace_of, pipeline_of, pipeline_options

if TYPE_CHECKING:
    from ..pipeline.packing import Compression

__all__ = ["FAILED", "run"]

FAILED = 3
"""Exit code of a run that is finished, with its result written, and of whose records some failed."""


@click.command(cls=CommandWithPack)
@click.argument("module", required=False)
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="[TOPIC=]PATH",
    help="File, glob, archive, topic://NAME or tcp://HOST:PORT; may be repeated.",
)
@click.option(
    "--then", multiple=True, metavar="[TOPIC=]PATH", help="An input that starts when those before are through."
)
@click.option("-k", "--key", multiple=True, metavar="[TOPIC=]FIELD", help="Field that becomes the record's key.")
@click.option(
    "-t", "--time", "times", multiple=True, metavar="[TOPIC=]FIELD", help="Field that holds the record's time."
)
@click.option(
    "--spool", "spools", multiple=True, metavar="[TOPIC=]FILE", help="A socket: write down what it gives; see replay."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file: .txt .csv .json .jsonl .parquet")
@click.option("--table", help="The table that is the result; needed where the app has several and --output is given.")
@click.option("--repartition", is_flag=True, help="Records of archives and topics go where their keys' hashes say.")
@click.option("--run-id", help="Name of the run; else it follows from program, inputs and options.")
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option(
    "--into-live", is_flag=True, help="Into the app's own topics and totals, instead of a run's; cannot be taken back."
)
@click.option("--on-bad-line", type=click.Choice(["fail", "skip", "dead-letter"]), default="fail", show_default=True)
@click.option(
    "--allow-dead-letters",
    "allowed",
    default="0",
    metavar="N|N%",
    help="Exit with 0, not 3, where no more records failed; bad lines and what agents skip count, too.",
)
@click.option("-l", "--loglevel", type=LEVELS, default="warn", show_default=True)
@pack_option
@pipeline_options
@format_options
@cluster_options
@click.pass_context
def run(
    context: click.Context,
    module: str | None,
    inputs: tuple[str, ...],
    then: tuple[str, ...],
    key: tuple[str, ...],
    times: tuple[str, ...],
    spools: tuple[str, ...],
    output: Path | None,
    table: str | None,
    repartition: bool,
    run_id: str | None,
    processes: int,
    into_live: bool,
    on_bad_line: str,
    allowed: str,
    loglevel: str,
    pack: Compression | None,
    bootstrap_server: str | None,
    options: tuple[str, ...],
    **form: Unpack[RecordOptions],
) -> None:
    """Run an app over history: replay, drain, write the result, exit 0; exit 3 where records failed.

    The run has topics, tables and a group of its own, so it never touches live totals. Started again after a crash it
    goes on where it was; started again when it is finished it only writes the result anew. Who else writes to its
    topics meanwhile does not keep it from ending.

    Failed are dead letters of the agents, what they skip, and bad lines (--on-bad-line): the result is written without
    them, and the exit code is 3, also when it is started again, unless --allow-dead-letters allows as many.

    With --into-live history goes into the app's real topics and is added to its live totals, beside what comes in
    live: once, whenever it is asked again. Workers that run do the work; where there are none, they are started.

    \b
    Examples:
      anabranch run shop --input 'orders/*.jsonl.gz' --key user --output totals.csv
      anabranch run anabranch.agents.jobs.flights --key carrier --time flights=time_hour --null NA \\
          --input airlines=airlines.csv --then flights=flights.csv.zip --table carriers --output carriers.csv
      anabranch run shop --input 'orders/2013-*.jsonl.gz' --key user --into-live
    """
    from ..app_loader import declared_by
    from ..runs.bounded_run import BoundedRun
    from ..runs.failures import Allowance
    from ..runs.inputs import parse_inputs
    from .run_output import RunView, show_run

    log_to_stderr(loglevel)
    course, pace, allowance = pipeline_of(form), pace_of(form), Allowance.parsed(allowed)
    name = module or app_name(context)
    if not inputs and not then:
        raise Usage("nothing to run over", hint="--input FILE")
    asked = parse_inputs(inputs, then, key, times, form, spools)
    told = bootstrap_server or os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    with choose_cluster(bootstrap_server, options, None if told else declared_by(name)) as place, RunView() as view:
        bounded = BoundedRun(
            place.cluster,
            name,
            asked,
            course=course,
            pace=pace,
            output=output,
            table=table,
            repartition=repartition,
            run_id=run_id,
            processes=processes,
            into_live=into_live,
            on_bad_line=on_bad_line,  # pyright: ignore[reportArgumentType] (click has checked it)
            pack=pack,
            watcher=view,
        )
        report = bounded.execute()
    show_run(report)
    if not allowance.allows(report.failures, of=report.read):
        click.echo(
            f"exit code {FAILED}: {report.failures:,} failures in {report.read:,} records; "
            "--allow-dead-letters N or N% allows some",
            err=True,
        )
        raise SystemExit(FAILED)
