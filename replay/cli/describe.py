"""`anabranch describe` and the parts of an app that it lists: agents, topics, tables, settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .common_options import app_name
from .console import folding, out, plain
from .logs import log_to_stderr

if TYPE_CHECKING:
    from rich.table import Table as Grid

    from ...agents.runtime import Runtime

__all__ = ["agents_grid", "describe"]


@click.command()
@click.pass_context
def describe(context: click.Context) -> None:
    """Show what an app is made of, without a cluster: agents, topics, tables, flows, settings that the program sets.

    Task groups are the topics whose partitions of one number are processed by one worker, with their tables. They
    follow from the numbers of partitions that the program declares; topics that exist may have others.

    \b
    Example:
      anabranch -A shop describe
    """
    from ..app_loader import load_app, runtime_of
    from ..project_config import project_config
    from .config import settings_of

    log_to_stderr(None)
    runtime = runtime_of(load_app(app_name(context)))
    guarantee = runtime.settings.guarantee
    settings = {name: (value, origin) for name, value, origin in settings_of(project_config(), runtime, context.obj)}
    cluster = " by ".join(settings["bootstrap-servers"])
    out.print(f"[bold]{plain(runtime.app_id)}[/bold]  {guarantee}   cluster: {plain(cluster)}", markup=True)
    grids = {
        "agents": agents_grid(runtime),
        "topics": _topics(runtime),
        "tables": _tables(runtime),
        "task groups": _groups(runtime),
    }
    for title, grid in grids.items():
        if grid.row_count:
            out.print(f"\n[bold]{title}[/bold]", markup=True)
            out.print(grid)
    if runtime.flows:
        out.print("\n[bold]flows[/bold]", markup=True)
        for flow in runtime.flows:
            out.print(f"  {flow}", soft_wrap=True)
            if flow.repartition is not None:
                out.print(f"    through {flow.repartition}", soft_wrap=True)
    from ...topics.printable import without_passwords

    # Of those, App itself gives the classes and this one.
    own = set() if runtime.conf.web_tables_enabled else {"web_tables_enabled"}
    given = sorted(name for name in runtime.conf.given - {"id"} - own if name[0].islower())
    if given:
        out.print("\n[bold]settings that differ from the defaults[/bold]", markup=True)
        for name in given:
            shown = "***" if "credentials" in name else without_passwords(str(getattr(runtime.conf, name)))
            out.print(f"  {name} = {shown}")


def agents_grid(runtime: Runtime) -> Grid:
    """Return the app's agents with the topics that they read."""
    from ...agents.engine.protocols import topics_read

    grid = _grid("agent", "reads", "values", "concurrency", "on failure")
    for agent in runtime.app.agents.values():
        channel: Any = agent.channel
        names = ", ".join(topics_read(agent)) or "a channel"
        grid.add_row(
            agent.name, names, _type(getattr(channel, "value_type", None)), str(agent.concurrency), agent.on_failure
        )
    return grid


def _topics(runtime: Runtime) -> Grid:
    grid = _grid("topic", "partitions", "keys", "values")
    for name, topic in runtime.described.items():
        if topic.internal or any(table.changelog_name == name for table in runtime.tables):
            continue
        partitions = str(topic.partitions or runtime.conf.topic_partitions)
        grid.add_row(name, partitions, _type(topic.key_type, "bytes"), _type(topic.value_type))
    return grid


def _tables(runtime: Runtime) -> Grid:
    grid = _grid("table", "keys", "values", "store", "changelog", "about")
    for table in runtime.tables:
        types = _type(table.key_type), _type(table.value_type)
        grid.add_row(table.name, *types, table.store_scheme, table.changelog_name, table.help or "")
    return grid


def _groups(runtime: Runtime) -> Grid:
    from ...agents.task_groups import task_groups

    grid = _grid("group", "tasks", "topics", "tables")
    default = runtime.conf.topic_partitions
    channels: list[Any] = [agent.channel for agent in runtime.app.agents.values() if hasattr(agent.channel, "topics")]
    joined = [list(topic.topics) for topic in channels]
    counts = {name: topic.partitions or default for topic in channels for name in topic.topics}
    most = max(counts.values(), default=default)
    tables = {table.name: table.partitions or most for table in runtime.tables}
    for group in sorted(set(task_groups(joined, counts, tables).values()), key=lambda group: group.name):
        grid.add_row(group.name, str(group.partitions), ", ".join(group.topics), ", ".join(group.tables))
    return grid


def _grid(*columns: str) -> Grid:
    from rich.table import Table as Grid

    return folding(Grid(*columns, header_style="bold"))


def _type(kind: object, untyped: str = "JSON") -> str:
    return untyped if kind is None else str(getattr(kind, "__name__", kind))
