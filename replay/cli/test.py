"""`anabranch test`: run an app in many simulated worlds with faults."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Unpack

import click

from ...topics.errors import Usage
from .common_options import FormatOptions, app_name, format_options, status_line
from .console import counted, out
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ..testing.faults import Plan
    from ..testing.simulation import Failure, SimulationReport

__all__ = ["test"]


@click.command()
@click.argument("module", required=False)
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="[TOPIC=]PATH", help="File or glob of records; repeatable."
)
@click.option("-k", "--key", multiple=True, metavar="[TOPIC=]FIELD", help="Field or expression for the record's key.")
@click.option(
    "-t", "--time", "times", multiple=True, metavar="[TOPIC=]FIELD", help="Field or expression for the record's time."
)
@click.option("-n", "--seeds", type=click.IntRange(1), default=100, show_default=True, help="Number of worlds.")
@click.option("--seed", type=int, help="Run only the world with this seed.")
@click.option("--faults", default="all", show_default=True, metavar="KINDS", help="Kinds of faults, with commas.")
@click.option("--plan", metavar="FAULTS", help="Let these faults happen, as a failure prints them.")
@click.option("--workers", type=click.IntRange(1, 8), default=2, show_default=True, help="Number of workers.")
@click.option("--bounded", is_flag=True, help="The inputs are a bounded run's: `take` gives the rest at their end.")
@click.option("--pack", "packed", is_flag=True, help="Send packed batches, so that flows run by column.")
@click.option("--ignore", multiple=True, metavar="NAME", help="Table or topic that is not compared; repeatable.")
@click.option("--most-failures", type=click.IntRange(1), default=1, show_default=True, help="Stop after so many.")
@format_options
@click.pass_context
def test(
    context: click.Context,
    module: str | None,
    inputs: tuple[str, ...],
    key: tuple[str, ...],
    times: tuple[str, ...],
    seeds: int,
    seed: int | None,
    faults: str,
    plan: str | None,
    workers: int,
    bounded: bool,
    packed: bool,
    ignore: tuple[str, ...],
    most_failures: int,
    **form: Unpack[FormatOptions],
) -> None:
    """Run an app in simulated worlds with faults, and compare their results with those of worlds without faults.

    A world is a Kafka in memory with a virtual clock, in which the app's workers process the inputs. Its seed decides
    which faults happen when, and in which order everything happens, so each world can be repeated. Tables, topics and
    dead letters have to be the same at the end of each world.

    A failure shows the shortest list of faults that is found to cause it, and the command that repeats the world.

    \b
    Kinds of faults:
      kill         a worker ends like with kill -9, and starts again
      abort        a step of a transaction is refused, or the transaction takes too long
      lost-request, lost-answer
                   a call times out, before or after the broker has acted
      fence        another process uses the worker's identity
      rebalance    a worker joins, leaves, or stands still
      broker-away  no broker answers for some seconds
      compact      compacted topics are compacted
      slow-disk, full-disk, damage
                   of tables on disk
      cut, lost-record, abort-all
                   only if they are named: changelogs lose their beginning, a record that is reported as delivered is
                   lost, all commits of a worker are refused for some time

    \b
    Examples:
      anabranch test shop --input orders.csv --key user
      anabranch test shop --input orders=orders.jsonl --key user --seeds 1000 --faults kill,abort,lost-answer
      anabranch test shop --input orders.csv --key user --seed 17
      anabranch test shop --input orders.csv --key user --pack

    Exits with 1 if the result of a world differs.
    """
    log_to_stderr("crit")
    name = module or app_name(context)
    if not inputs:
        raise Usage("no input given", hint="--input FILE, with --key FIELD if the records have keys")
    from ..app_loader import load_app
    from ..runs.inputs import parse_inputs
    from ..testing.file_inputs import inputs_of_files
    from ..testing.simulation import Simulation

    records = inputs_of_files(load_app(name), parse_inputs(inputs, (), key, times, form))
    chosen = range(1, seeds + 1) if seed is None else [seed]
    simulation = Simulation(
        name,
        inputs=records,
        seeds=chosen,
        faults=faults,
        workers=workers,
        plan=plan,
        ignore=ignore,
        bounded=bounded,
        packed=packed,
    )

    def show(report: SimulationReport) -> None:
        status_line(f"world {report.worlds} of {len(chosen)}, {counted(len(report.failures), 'failure')}")

    try:
        report = simulation.run(most_failures=most_failures, watcher=show if sys.stderr.isatty() else None)
    except AssertionError as exc:  # the app's result depends on more than its inputs
        out.print(f"cannot be compared: {exc}", style="red")
        raise SystemExit(1) from None
    finally:
        status_line("")
    for failure in report.failures:
        show_failure(failure)
    happened = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.faults.items())) or "none"
    out.print(f"{counted(report.worlds, 'world')} in {report.seconds:.1f} s   faults: {happened}")
    if report.failures:
        out.print(f"{counted(len(report.failures), 'world')} ended with another result", style="red")
        raise SystemExit(1)
    out.print("all ended with the result of a world without faults")
    for topic, count in sorted(report.dead_letters.items()):
        out.print(f"the result includes {counted(count, 'dead letter')} in {topic}", style="yellow")


def show_failure(failure: Failure) -> None:
    """Print a failure and the commands that repeat it."""
    out.print(f"seed {failure.seed}: another result than in a world without faults", style="red")
    out.print(failure.described(_repeating), soft_wrap=True)


def _repeating(seed: int, plan: Plan | None) -> str:
    faults = "" if plan is None else f" --plan {shlex.quote(str(plan))}"
    return f"{_command()} --seed {seed}{faults}"


def _command() -> str:
    """Return the command line of this process without its seeds and faults."""
    context = click.get_current_context()
    given: list[str] = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not click.core.ParameterSource.COMMANDLINE or parameter.name in ("seeds", "seed", "plan"):
            continue
        value = context.params[parameter.name or ""]
        values = value if isinstance(value, tuple) else (value,)
        for each in values:
            if isinstance(parameter, click.Option):
                flag = max(parameter.opts, key=len)
                given += [flag] if parameter.is_flag else [flag, str(each)]
            else:
                given.append(str(each))
    app = [] if context.params["module"] else ["-A", str(context.obj)]
    return shlex.join(["anabranch", *app, "test", *given])
