"""`anabranch run`: run an app over a finite history and write its result."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Unpack

import click

from ...topics.errors import Usage
from .common_options import (
    LEVELS,
    CommandWithPack,
    allow_late_option,
    app_name,
    bad_line_option,
    choose_cluster,
    cluster_options,
    format_options,
    pack_option,
    show_private_option,
)
from .logs import log_to_stderr
from .pipeline_options import RecordOptions, pace_of, pipeline_of, pipeline_options

if TYPE_CHECKING:
    from ..pipeline.packing import Compression
    from ..sources.format import OnBadLine

__all__ = ["FAILED", "run"]

FAILED = 3
"""Exit code of a run that finished and wrote its result, but some of whose records failed."""


@click.command(cls=CommandWithPack)
@click.argument("module", required=False)
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="[TOPIC=]PATH",
    help="File, glob, archive, topic://NAME or tcp://HOST:PORT; repeatable.",
)
@click.option(
    "--then",
    multiple=True,
    metavar="[TOPIC=]PATH",
    help="An input that starts after the inputs before it are processed.",
)
@click.option("-k", "--key", multiple=True, metavar="[TOPIC=]FIELD", help="Field or expression for the record's key.")
@click.option(
    "-t", "--time", "times", multiple=True, metavar="[TOPIC=]FIELD", help="Field or expression for the record's time."
)
@click.option(
    "--spool",
    "spools",
    multiple=True,
    metavar="[TOPIC=]FILE",
    help="Socket: write received lines to FILE first; see replay.",
)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="[TOPIC=]FILE",
    help="File for the table, or for a topic that agents send to: .txt, .csv, .json, .jsonl, .parquet; repeatable.",
)
@click.option("--table", help="Table to write to --output; required if the app has several.")
@click.option(
    "--repartition", is_flag=True, help="Archives and topics: choose partitions by key hash instead of keeping them."
)
@click.option("--run-id", help="Id of the run.  [default: derived from program, inputs and options]")
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option(
    "--into-live", is_flag=True, help="Add the history to the app's live topics and tables; cannot be undone."
)
@allow_late_option
@bad_line_option("What to do with a line or row that is not a record.")
@click.option(
    "--allow-failures",
    "allowed",
    default="0",
    show_default=True,
    metavar="N|N%",
    help="Exit with 0 instead of 3 if at most this many dead letters, skipped records and bad lines occur.",
)
@click.option("--complete", is_flag=True, help="Keep windows open to the end of the inputs, so that no record is late.")
@click.option("--digests", is_flag=True, help="Show digests of all tables and output topics.")
@click.option("-J", "--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-l", "--loglevel", type=LEVELS, default="warn", show_default=True)
@pack_option
@pipeline_options
@format_options
@show_private_option
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
    outputs: tuple[str, ...],
    table: str | None,
    repartition: bool,
    run_id: str | None,
    processes: int,
    into_live: bool,
    allow_late: bool,
    on_bad_line: OnBadLine,
    allowed: str,
    complete: bool,
    digests: bool,
    as_json: bool,
    loglevel: str,
    pack: Compression | None,
    bootstrap_server: str | None,
    options: tuple[str, ...],
    **form: Unpack[RecordOptions],
) -> None:
    """Run an app over a finite history: replay the inputs, process them, write the result, exit.

    A run has its own topics, tables and consumer group, so it does not touch live tables. After a crash, the same
    command resumes where it left off; after the run has finished, it only writes the result again. A run ends even if
    others keep writing to its topics.

    Dead letters, records that agents skip, and bad lines (--on-bad-line) count as failures: the result is written
    without them and the exit code is 3, also when the command is repeated, unless --allow-failures tolerates them.

    With --into-live, the history is written to the app's live topics and added to its live tables, once even if the
    command is repeated. Running workers process it; if there are none, the command starts them. Records that would be
    late for windows of the live topic are refused before anything is sent, unless --allow-late is given.

    The report says which orders of records give the same result, and what the result depends on otherwise. --digests
    adds digests of all tables and output topics, to compare runs by.

    \b
    Examples:
      anabranch run shop --input 'orders/*.jsonl.gz' --key user --output totals.csv
      anabranch run shop --input orders.jsonl --key user --output totals.csv --output large-orders=large.csv
      anabranch run shop --input 'orders/*.jsonl.gz' --key user --complete --output windows.csv
      anabranch run shop --input orders=orders.csv --input payments=payments.csv --key user --time at --digests
      anabranch run anabranch.agents.jobs.flights --key carrier --time flights=time_hour --null NA \\
          --input airlines=airlines.csv --then flights=flights.csv.zip --table carriers --output carriers.csv
      anabranch run shop --input 'orders/2013-*.jsonl.gz' --key user --into-live
    """
    from ..app_loader import declared_cluster
    from ..runs.bounded_run import BoundedRun
    from ..runs.failure_counts import Allowance
    from ..runs.inputs import parse_inputs
    from ..topic_result import parse_outputs
    from .console import counted, write_json
    from .run_output import RunView, show_run

    log_to_stderr(loglevel)
    pipeline, pace, allowance = pipeline_of(form), pace_of(form), Allowance.parsed(allowed)
    name = module or app_name(context)
    if not inputs and not then:
        raise Usage("no input given", hint="--input FILE")
    output, topic_outputs = parse_outputs(outputs)
    run_inputs = parse_inputs(inputs, then, key, times, form, spools)
    servers = bootstrap_server or os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    with (
        choose_cluster(bootstrap_server, options, None if servers else declared_cluster(name)) as choice,
        RunView() as view,
    ):
        bounded = BoundedRun(
            choice.cluster,
            name,
            run_inputs,
            pipeline=pipeline,
            pace=pace,
            output=output,
            topic_outputs=topic_outputs,
            table=table,
            repartition=repartition,
            run_id=run_id,
            processes=processes,
            into_live=into_live,
            allow_late=allow_late,
            complete=complete,
            digests=digests,
            on_bad_line=on_bad_line,
            pack=pack,
            watcher=view,
        )
        report = bounded.execute()
    if as_json:
        write_json(report.facts())
    else:
        show_run(report)
    if not allowance.allows(report.failures, of=report.read):
        click.echo(
            f"exit code {FAILED}: {counted(report.failures, 'failure')} in {counted(report.read, 'record')}\n"
            "  hint: --allow-failures N or N% tolerates failures",
            err=True,
        )
        raise SystemExit(FAILED)
