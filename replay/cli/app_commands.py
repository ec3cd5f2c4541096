"""The commands that an app declares with `@app.command`: `anabranch -A shop NAME`.

Each is a Faust `AppCommand`, so that it also works with `faust -A shop NAME`. Here it is a client on the cluster that
the command line chooses: topics that it sends to are created as declared, and tables are read from their changelogs.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, cast

import click
from faust.cli.base import State

from ...agents.tables.store import Changes
from ...topics.errors import Stop, Usage
from ..app_loader import Runtime, load_app, runtime_of
from ..table_reader import TableReader
from .common_options import choose_cluster
from .console import counted
from .logs import log_to_stderr

if TYPE_CHECKING:
    from faust.cli.base import AppCommand

    from ...agents.app import App
    from ...agents.tables.table import Table
    from ...topics.cluster import Cluster

__all__ = ["app_commands"]

# The parameters of the options that every command gets, unless it has an option of that name itself.
_SERVERS, _OPTIONS = "anabranch_servers", "anabranch_options"


def app_commands(name: str) -> dict[str, click.Command]:
    """Return the commands of the app that `-A` names.

    Raises:
        Usage: the app cannot be loaded.
    """
    app = load_app(name)
    return {command.name or "": command for command in (_command(app, kind) for kind in runtime_of(app).commands)}


def _command(app: App, kind: type[AppCommand]) -> click.Command:
    declared = cast("click.Command", kind._click)  # pyright: ignore[reportPrivateUsage]
    taken = {option for parameter in declared.params for option in parameter.opts}
    more: list[click.Parameter] = []
    if not taken & {"-b", "--bootstrap-server"}:
        more.append(click.Option([_SERVERS, "-b", "--bootstrap-server"], metavar="HOST:PORT", help="Kafka cluster."))
    if "-X" not in taken:
        option = click.Option([_OPTIONS, "-X"], multiple=True, metavar="NAME=VALUE", help="librdkafka option.")
        more.append(option)

    def run(**values: Any) -> None:
        servers, options = values.pop(_SERVERS, None), values.pop(_OPTIONS, ())
        _run(app, kind, servers, options, values)

    help = inspect.cleandoc(kind.__doc__ or "")
    return click.Command(declared.name, callback=run, params=[*declared.params, *more], help=help)


def _run(
    app: App, kind: type[AppCommand], servers: str | None, options: tuple[str, ...], values: dict[str, Any]
) -> None:
    log_to_stderr(None)
    runtime = runtime_of(app)
    with choose_cluster(servers, options, runtime) as choice:
        runtime.cluster = choice.cluster
        for table in runtime.tables:
            _read_when_needed(choice.cluster, table)
        # Faust's commands find the app, and where they print, in the root context.
        context = click.Context(click.Command(kind.__name__), info_name="anabranch", obj=State())
        root: Any = context
        root.app, root.stdout, root.stderr, root.side_effects = app, None, None, True
        asyncio.run(_execute(runtime, kind, context, values))
        failed = runtime.sender.failed if "sender" in vars(runtime) else 0
    if failed:
        raise Stop(f"{counted(failed, 'record')} could not be sent", hint="the log above says why")


async def _execute(runtime: Runtime, kind: type[AppCommand], context: click.Context, values: dict[str, Any]) -> None:
    await kind(context, **values).execute(**values)
    if "sender" in vars(runtime):
        await runtime.sender.flush()


def _read_when_needed(cluster: Cluster, table: Table) -> None:
    """Let the first read of a table fill it with its committed content."""

    def load() -> None:
        try:
            parts = TableReader(cluster, table).read_raw()
        except Usage:  # no worker has made its changelog yet: the table is empty
            return
        for partition, pairs in enumerate(parts):
            state = table.add_partition(partition, table.new_state())
            state.store.apply(Changes(list(pairs), list(pairs.values()), deletes=False), 0)

    table.load = load
