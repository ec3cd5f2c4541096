"""The reference of the commands: the text of each `--help`."""

from __future__ import annotations

import os
import re

import click
from anabranch.replay.cli.entry import cli

_STYLES = re.compile(r"\x1b\[[0-9;]*m")
_WIDTH = 100


def command_reference() -> str:
    """Return the help of all commands and their subcommands, as Markdown."""
    return "\n\n".join(_of(cli, "anabranch", None, 1))


def _of(command: click.Command, name: str, parent: click.Context | None, level: int) -> list[str]:
    with _plain_text():
        context = click.Context(command, info_name=name, parent=parent, max_content_width=_WIDTH, terminal_width=_WIDTH)
        text = _STYLES.sub("", command.get_help(context))
    path = context.command_path
    parts = [f"{'#' * (level + 1)} {path}\n\n```text\n{text}\n```"]
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if found is not None and not found.hidden:
                parts += _of(found, each, context, 2 if level == 1 else 3)
    return parts


class _plain_text:  # noqa: N801 (used as a function)
    """Keeps click from measuring and colouring a terminal."""

    def __enter__(self) -> None:
        self._before = os.environ.get("NO_COLOR")
        os.environ["NO_COLOR"] = "1"

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            del os.environ["NO_COLOR"]
        else:
            os.environ["NO_COLOR"] = self._before
