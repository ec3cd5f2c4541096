"""`anabranch agents`: list the agents of an app."""

from __future__ import annotations

import click

from .common_options import app_name
from .console import out
from .logs import log_to_stderr

__all__ = ["agents"]


@click.command()
@click.pass_context
def agents(context: click.Context) -> None:
    """List an app's agents with the topics that they read.

    \b
    Example:
      anabranch -A shop agents
    """
    from ..app_loader import load_app, runtime_of
    from .describe import agents_grid

    log_to_stderr(None)
    out.print(agents_grid(runtime_of(load_app(app_name(context)))))
