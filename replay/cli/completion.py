"""`anabranch completion`: the script that completes commands and options in a shell; and what it completes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ...agents.runtime import Runtime

__all__ = ["complete_apps", "complete_tables", "complete_topics", "completion"]

_VARIABLE = "_ANABRANCH_COMPLETE"  # click's name for it


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that lets a shell complete commands, options, and the tables and topics of the app.

    \b
    Examples:
      source <(anabranch completion bash)                 # in this shell
      echo 'source <(anabranch completion bash)' >> ~/.bashrc
      echo 'source <(anabranch completion zsh)' >> ~/.zshrc
      anabranch completion fish > ~/.config/fish/completions/anabranch.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    # `source()` would also ask for the version of a bash on this machine, which may not be the one that reads this.
    made = kind(context.find_root().command, {}, "anabranch", _VARIABLE)
    click.echo(made.source_template % made.source_vars())


def complete_apps(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the modules of the working directory that may hold an app."""
    del context, parameter
    if "/" in incomplete or incomplete.endswith(".py"):
        return [str(path) for path in Path().glob(f"{incomplete}*.py")]
    return sorted(path.stem for path in Path().glob(f"{incomplete}*.py"))


def complete_tables(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the tables of the app of `-A` or of the project's file."""
    from click.shell_completion import CompletionItem

    del parameter
    with _runtime(context) as runtime:
        tables = [] if runtime is None else list(runtime.tables)
    return [CompletionItem(table.name, help=table.help) for table in tables if table.name.startswith(incomplete)]


def complete_topics(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the topics that the app of `-A` or of the project's file declares."""
    del parameter
    with _runtime(context) as runtime:
        names = [] if runtime is None else sorted(runtime.described)
    return [name for name in names if name.startswith(incomplete)]


@contextlib.contextmanager
def _runtime(context: click.Context) -> Generator[Runtime | None]:
    """Provide the app's runtime; None if no app is named or it cannot be loaded. What the program prints is dropped."""
    from ...topics.errors import AnabranchError
    from ..project_config import project_config

    runtime: Runtime | None = None
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        contextlib.suppress(AnabranchError),
    ):
        # The shell asks before the command line is executed, which would read the project's file.
        if name := context.find_root().obj or project_config().app:
            from ..app_loader import load_app, runtime_of

            runtime = runtime_of(load_app(name))
    yield runtime
