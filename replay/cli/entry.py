"""The `anabranch` command. Flags win over the environment, which wins over defaults."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
import traceback

import click

from .. import signals

__all__ = ["COMMANDS", "main"]

# Name -> what `anabranch --help` says of it. A command is `commands/<name>.py`, and imported when it is asked for:
# together they take three times as long as one, and a worker that is started again has to be back soon.
COMMANDS = {
    "archive": "Write a topic's committed records into a folder.",
    "broker": "Run a real Kafka on loopback, for development.",
    "demo": "Show the main jobs on real data.",
    "dlq": "Dead letters: list, show, replay.",
    "replay": "Feed files, a socket, an archive or a topic into TOPIC.",
    "run": "Run an app over history, write the result, exit.",
    "runs": "List runs, show one, or forget it.",
    "tables": "Show an app's tables, back them up, restore them.",
    "topics": "List topics: records, partitioner, skew.",
    "unpack": "Turn packed batches into plain records.",
    "verify": "Compare A with B, and show the first differences.",
    "worker": "Run the app's agents for ever.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            exc.message += f" Did you mean {near[0]}?" if near and exc.message.startswith("No such command") else ""
            raise

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f".{cmd_name}", __package__), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
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

    \b
    Exit codes:
      0    done; a worker was told to end
      1    somebody has to look: no broker, a failed record with on_failure="fail", contents that differ (verify), …
      2    the command line, the configuration or the program has to change
      3    run: finished, the result is written, and records failed (see --allow-dead-letters)
      130  interrupted; the same command goes on from there
    """
    if workdir:
        os.chdir(workdir)
    context.obj = app_name


def main() -> None:
    """Entry point: errors are said in a line or two, with what to do, and an exit code."""
    # Faust looks for options of its own in there when it is imported, and takes our --loop for one.
    arguments = sys.argv[1:]
    del sys.argv[1:]
    signals.listen()
    try:
        cli.main(arguments, standalone_mode=False, prog_name="anabranch")
    except click.ClickException as exc:
        exc.show()
        if isinstance(exc, click.NoSuchOption) and exc.option_name in ("-A", "--app"):
            click.echo("hint: -A stands before the command: anabranch -A MODULE worker", err=True)
        raise SystemExit(exc.exit_code) from None
    except (KeyboardInterrupt, click.Abort):
        raise _interrupted() from None
    except click.exceptions.Exit as exc:
        raise SystemExit(exc.exit_code) from None
    except Exception as exc:
        from ...topics.errors import understood  # librdkafka comes with it, which --help can do without
        from ...topics.printable import printable, without_passwords

        error = understood(exc)
        if error is not exc and signals.told():  # it was raised inside of a library, which made something else of it
            raise _interrupted() from exc
        if error is None:
            text = "".join(traceback.format_exception(exc))
            click.echo(printable(without_passwords(text)), err=True, nl=False)
            raise SystemExit(1) from None
        if error is not exc:
            logging.getLogger("anabranch").debug("this ended it", exc_info=exc)
        click.echo(f"error: {printable(error)}", err=True)
        raise SystemExit(error.exit_code) from None


def _interrupted() -> SystemExit:
    click.echo("interrupted; the same command goes on from there", err=True)
    return SystemExit(signals.exit_code())
