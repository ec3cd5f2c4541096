"""The reference of the commands: the text of each `--help`."""

from __future__ import annotations

import click
from anabranch.replay.cli.entry import cli

_WIDTH = 88  # what the site shows without scrolling


def command_reference() -> str:
    """Return the help of all commands and their subcommands, as Markdown."""
    return "\n\n".join(_of(cli, "anabranch", None, 1))


def _of(command: click.Command, name: str, parent: click.Context | None, level: int) -> list[str]:
    given = {**command.context_settings, "max_content_width": _WIDTH, "terminal_width": _WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **given)
    command._help_option = None  # click keeps that of its first context: of a command that was called alone, say
    parts = [f"{'#' * (level + 1)} {context.command_path}\n\n```text\n{command.get_help(context)}\n```"]
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if found is not None and not found.hidden:
                parts += _of(found, each, context, 2 if level == 1 else 3)
    return parts
