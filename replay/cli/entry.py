"""The entry point of the `anabranch` command.

Options override environment variables, which override defaults.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import sys
from pathlib import Path

import click

from ...topics.spelling import did_you_mean
from .. import signals

__all__ = ["COMMANDS", "main"]

# Name -> summary in `anabranch --help`. A command is defined in `<name>.py` beside this file, which is imported only
# when the command runs: importing all of them takes three times as long, and a restarted worker must be ready soon.
COMMANDS = {
    "agents": "List an app's agents and the topics that they read.",
    "archive": "Archive a topic's committed records in a folder.",
    "broker": "Run a single-node Kafka on loopback for development.",
    "completion": "Print a script that completes commands in a shell.",
    "config": "Show the app, cluster and options in use, and where they come from.",
    "demo": "Run the example jobs on real data.",
    "describe": "Show an app's agents, topics, tables and settings.",
    "dlq": "List, show and replay dead letters.",
    "lag": "Show how far a consumer group is behind.",
    "new": "Write a small project with an app and its test.",
    "replay": "Replay files, a socket, an archive or a topic into a topic.",
    "reset": "Let an app begin anew: delete its offsets, tables and internal topics.",
    "run": "Run an app over a finite history, write the result, exit.",
    "runs": "List, show or delete replays and bounded runs.",
    "send": "Send records to a topic.",
    "tables": "Show, back up and restore an app's tables.",
    "tail": "Show the last records of a topic, and follow it.",
    "test": "Run an app in simulated worlds with faults.",
    "time": "Show how far an app's windows and timers are in event time, and what holds them back.",
    "topics": "List topics: records, partitioner, skew.",
    "unpack": "Convert packed batches to plain records.",
    "verify": "Compare the records of two sources and show the first differences.",
    "worker": "Run an app's agents on live topics.",
}


class _Commands(click.Group):
    """The commands above, and those of the app that `-A` names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *_app_commands_or_problem(ctx)[0]]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return _app_commands(ctx).get(cmd_name)
        return getattr(importlib.import_module(f".{cmd_name}", __package__), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        own, problem = _app_commands_or_problem(ctx)
        if own or problem:
            with formatter.section(f"Commands of {ctx.obj}"):
                if problem:
                    formatter.write_text(problem)
                    return
                formatter.write_dl(
                    [
                        (name, "(hidden: anabranch has one)" if name in COMMANDS else command.get_short_help_str(80))
                        for name, command in sorted(own.items())
                    ]
                )


def _app_commands(context: click.Context) -> dict[str, click.Command]:
    """Return the commands that the app of `-A` declares.

    Raises:
        Usage: the app cannot be loaded.
    """
    _read_config(context)
    if not context.obj:
        return {}
    from .app_commands import app_commands  # imports Faust

    if "_ANABRANCH_COMPLETE" in os.environ:  # a shell reads what is printed
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            return app_commands(context.obj)
    return app_commands(context.obj)


def _read_config(context: click.Context) -> None:
    """Read the project's file, if there is one: the app that it names counts where `-A` is not given.

    Raises:
        Usage: see `project_config`.
    """
    if not _has_config():  # its reader imports librdkafka, which --help does not need
        return
    from ..project_config import apply_data_folder, project_config

    config = project_config()
    apply_data_folder(config)
    context.obj = context.obj or config.app


def _has_config() -> bool:
    """Return whether the working directory has a file with settings; also if it cannot be read, which is reported."""
    if Path("anabranch.toml").exists():
        return True
    shared = Path("pyproject.toml")
    if not shared.exists():
        return False
    import tomllib

    try:
        return "anabranch" in tomllib.loads(shared.read_text()).get("tool", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return True


def _app_commands_or_problem(context: click.Context) -> tuple[dict[str, click.Command], str]:
    """Return the app's commands, or why it cannot be loaded."""
    try:
        return _app_commands(context), ""
    except Exception as exc:
        from ...topics.errors import AnabranchError

        if not isinstance(exc, AnabranchError):
            raise
        return {}, str(exc)


def _complete_apps(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from .completion import complete_apps

    return complete_apps(context, parameter, incomplete)


def _choose_app(context: click.Context, _: click.Parameter, name: str | None) -> None:
    context.obj = name


def _change_directory(_: click.Context, __: click.Parameter, workdir: str | None) -> None:
    if workdir:
        os.chdir(workdir)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-A",
    "--app",
    metavar="MODULE",
    envvar="ANABRANCH_APP",
    is_eager=True,  # --help shows the app's commands
    expose_value=False,
    callback=_choose_app,
    shell_complete=_complete_apps,
    help="App to load: module, module:app or path/to/file.py.",
)
@click.option(
    "-W",
    "--workdir",
    type=click.Path(exists=True, file_okay=False),
    is_eager=True,
    expose_value=False,
    callback=_change_directory,
    help="Change to this directory first.",
)
@click.version_option(package_name="anabranch", prog_name="anabranch")
@click.pass_context
def cli(context: click.Context) -> None:
    """Stream processing on Kafka, with replay: the same program runs on live topics and over a file of history.

    \b
    Examples:
      anabranch -A shop worker -l info
      anabranch -A shop send orders ann '{"user": "ann", "amount": 3}'
      anabranch tail orders -f
      anabranch run shop --input 'orders/*.jsonl.gz' --key user --output totals.csv
      anabranch replay data.txt --to lines --key-before ,
      anabranch -A shop tables totals

    \b
    Exit codes:
      0    success; or a worker was stopped by a signal
      1    the operation failed: no broker, a failed record with on_failure="fail", a difference (verify), …
      2    invalid command line, configuration or program
      3    run: finished and wrote the result, but records failed (see --allow-failures)
      130  interrupted (143 after SIGTERM); run the same command again to resume
    """
    _read_config(context)


def main() -> None:
    """Run the command line: print errors as a message and a hint, and exit with the error's exit code."""
    # On import, Faust looks for its own options in sys.argv, and would take our --loop for one of them.
    arguments = sys.argv[1:]
    del sys.argv[1:]
    signals.install()
    try:
        cli.main(arguments, standalone_mode=False, prog_name="anabranch")
    except click.ClickException as exc:
        exc.show()
        if hint := _hint(exc):
            click.echo(f"hint: {hint}", err=True)
        raise SystemExit(exc.exit_code) from None
    except (KeyboardInterrupt, click.Abort):
        raise _interrupted(_command(arguments)) from None
    except click.exceptions.Exit as exc:
        raise SystemExit(exc.exit_code) from None
    except Exception as exc:
        from ...topics.errors import formatted_traceback, understood  # imports librdkafka, which --help does not need
        from ...topics.printable import printable, without_passwords
        from .logs import marked

        error = understood(exc)
        if error is not exc and signals.received():  # the interrupt was raised inside a library, which wrapped it
            raise _interrupted(_command(arguments)) from exc
        if error is None:
            click.echo(printable(without_passwords(formatted_traceback(exc))), err=True)
            raise SystemExit(1) from None
        if error is not exc:
            logging.getLogger("anabranch").debug("traceback of the error", exc_info=exc)
        click.echo(f"{marked('error:', 'red')} {printable(error)}", err=True)
        raise SystemExit(error.exit_code) from None


def _hint(error: click.ClickException) -> str:
    """Return what the user may have meant by a command line that click refuses; "" if nothing is likely.

    Click itself names the nearest long option.
    """
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return ""
    command = context.command
    if isinstance(error, click.NoSuchOption):
        if error.option_name in ("-A", "--app"):
            return "-A goes before the command: anabranch -A MODULE worker"
        if context.parent is None:
            return "options of a command follow it: anabranch -A MODULE worker -l info"
        options = [name for parameter in command.get_params(context) for name in parameter.opts if name[:2] == "--"]
        if error.option_name.startswith("--"):
            return ""
        named = [name for name in options if name[2:3] == error.option_name[1:2]]
        return f"did you mean {' or '.join(named)}?" if named else ""
    found = re.match("No such command '(.*)'", error.message)
    if found is None or not isinstance(command, click.Group) or getattr(error, "possibilities", None):
        return ""  # newer versions of click make suggestions of their own
    name = found[1]
    if context.parent is None and Path(f"{name.removesuffix('.py')}.py").is_file():
        return f"-A names the app: anabranch -A {name} worker"
    return did_you_mean(name, command.list_commands(context))


def _command(arguments: list[str]) -> str:
    """Return the command of a command line; empty without one."""
    left = iter(arguments)
    for argument in left:
        if not argument.startswith("-"):
            return argument
        if argument in ("-A", "--app", "-W", "--workdir"):
            next(left, "")
    return ""


def _interrupted(command: str) -> SystemExit:
    if command == "worker":  # it had not begun to run its app
        return SystemExit(0)
    click.echo("interrupted; run the same command again to resume", err=True)
    return SystemExit(signals.exit_code())
