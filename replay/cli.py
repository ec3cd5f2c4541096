"""The `anabranch` command. Flags win over the environment, which wins over defaults."""

from __future__ import annotations

import os
import sys

import click

from ..topics.errors import AnabranchError
from .commands.archive import archive
from .commands.broker import broker
from .commands.demo import demo
from .commands.dlq import dlq
from .commands.replay import replay
from .commands.run import run
from .commands.runs import runs
from .commands.tables import tables
from .commands.topics import topics
from .commands.unpack import unpack
from .commands.verify import verify
from .commands.worker import worker

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-A", "--app", "app_name", metavar="MODULE", help="The app: module, module:app or path/to/file.py.")
@click.option("-W", "--workdir", type=click.Path(exists=True, file_okay=False), help="Change to this folder first.")
@click.version_option(package_name="anabranch", prog_name="anabranch")
@click.pass_context
def cli(context: click.Context, app_name: str | None, workdir: str | None) -> None:
    """Stream processing on Kafka, with replay: one program for the live topic and for a file of history.

    \b
    Examples:
      anabranch -A shop worker -l info
      anabranch run shop --input 'orders/*.jsonl.gz' --key user --output totals.csv
      anabranch replay data.txt --to lines --key-before ,
      anabranch -A shop tables totals
    """
    if workdir:
        os.chdir(workdir)
    context.obj = app_name


for command in (archive, broker, demo, dlq, replay, run, runs, tables, topics, unpack, verify, worker):
    cli.add_command(command)


def main() -> None:
    """Entry point: errors are said in a line or two, with what to do, and an exit code."""
    # Faust looks for options of its own in there when it is imported, and takes our --loop for one.
    arguments = sys.argv[1:]
    del sys.argv[1:]
    try:
        cli.main(arguments, standalone_mode=False, prog_name="anabranch")
    except AnabranchError as exc:
        click.echo(f"error: {exc}", err=True)
        raise SystemExit(exc.exit_code) from None
    except click.ClickException as exc:
        exc.show()
        raise SystemExit(exc.exit_code) from None
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; the same command goes on from there", err=True)
        raise SystemExit(130) from None
    except click.exceptions.Exit as exc:
        raise SystemExit(exc.exit_code) from None
