"""`anabranch config`: the settings that commands use here, and where each comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ...topics.errors import Usage
from .common_options import named_app
from .console import out, plain, write_json
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ..cluster_choice import ClusterDeclaration
    from ..project_config import ProjectConfig

__all__ = ["config", "settings_of"]

Setting = tuple[str, str, str]
"""Name, value and origin of a setting."""


@click.command()
@click.option("-J", "--json", "as_json", is_flag=True, help="Print JSON lines.")
@click.pass_context
def config(context: click.Context, as_json: bool) -> None:
    """Show the app, the cluster and its options that commands use here, and where each value comes from.

    anabranch.toml, or the section [tool.anabranch] of pyproject.toml, in the working directory may set them. Options of
    the command line win over the environment, that over the file, and the file over the program. Secrets are not shown.

    \b
    Example of an anabranch.toml:
      app = "shop"
      bootstrap-servers = "kafka:9092"
      data = "/var/lib/anabranch"
      [options]
      security.protocol = "SSL"

    \b
    Examples:
      anabranch config
      anabranch -A shop config -J
    """
    from ..app_loader import DeclaredCluster
    from ..project_config import project_config

    log_to_stderr(None)
    problem: Usage | None = None
    app: ClusterDeclaration = DeclaredCluster()
    try:
        app = named_app(context) or app
    except Usage as exc:  # which app this is, and where its name comes from, is what this command is asked for then
        problem = exc
    found = settings_of(project_config(), app, context.obj)
    for name, value, origin in found:
        if as_json:
            write_json({"setting": name, "value": value, "from": origin})
        else:
            out.print(f"{plain(name)} = {plain(value)}   [dim]{plain(origin)}[/dim]", markup=True, soft_wrap=True)
    if problem is not None:
        raise problem


def settings_of(config: ProjectConfig, app: ClusterDeclaration, app_name: str | None) -> list[Setting]:
    """Return the settings that a command without options uses; secrets are masked."""
    from ...topics.cluster import is_secret
    from ...topics.printable import without_passwords

    return [
        (name, "***" if is_secret(name) else without_passwords(value), origin)
        for name, value, origin in _settings(config, app, app_name)
    ]


def _settings(config: ProjectConfig, app: ClusterDeclaration, app_name: str | None) -> Iterator[Setting]:
    from ...topics.cluster import environment_options

    if app_name is None:
        yield "app", "none", "-A, ANABRANCH_APP or a file names one"
    else:
        asked = os.environ.get("ANABRANCH_APP") == app_name
        yield "app", app_name, "ANABRANCH_APP" if asked else config.source if config.app == app_name else "-A"
    named = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    servers = named or config.bootstrap_servers or app.declared_broker
    origin = "KAFKA_BOOTSTRAP_SERVERS" if named else config.source if config.bootstrap_servers else "the program"
    yield "bootstrap-servers", servers or "the embedded Kafka", origin if servers else "default"
    data = os.environ.get("ANABRANCH_HOME")
    from_file = config.data is not None and data == str(config.data)
    yield "data", data or ".anabranch", config.source if from_file else "ANABRANCH_HOME" if data else "default"
    environment = environment_options()
    for name, value in sorted({**app.client_options, **config.options, **environment}.items()):
        if name in environment:
            yield name, value, f"KAFKA_{name.upper().replace('.', '_')}"
        else:
            yield name, value, config.source if name in config.options else "the program"
