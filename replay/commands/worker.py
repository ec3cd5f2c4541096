"""`anabranch worker`: an app for ever."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import click

from ..options import LEVELS, app_name, cluster_options, log_to_stderr, on_ground

__all__ = ["worker"]


@click.command()
@click.option("-l", "--loglevel", type=LEVELS, default="warn", show_default=True)
@click.option("-D", "--datadir", type=click.Path(path_type=Path), help="Identity and state of this worker.")
@click.option("--with-web/--without-web", default=True, show_default=True, help="Serve tables and metrics on loopback.")
@click.option("-p", "--web-port", type=int, help="Of the web views; another free one where it is taken.")
@click.option("--web-host", help="Name under which other workers reach this one.")
@click.option("--web-bind", help="Address to listen at; loopback unless given.")
@click.option("--keep-identity", is_flag=True, help="On SIGTERM keep the partitions for this worker's restart.")
@click.option("--end-with-stdin", is_flag=True, hidden=True)
@cluster_options
@click.pass_context
def worker(
    context: click.Context,
    loglevel: str,
    datadir: Path | None,
    with_web: bool,
    web_port: int | None,
    web_host: str | None,
    web_bind: str | None,
    keep_identity: bool,
    end_with_stdin: bool,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Run the app's agents for ever: SIGTERM drains, commits, leaves the group, exits 0.

    \b
    Examples:
      anabranch -A shop worker -l info
      anabranch -A shop worker -b kafka:9092 -X security.protocol=SSL -X ssl.ca.location=ca.pem
    """
    from ...agents.worker import run_worker
    from ..loading import load_app

    log_to_stderr(loglevel)
    app = load_app(app_name(context))
    with on_ground(bootstrap_server, options, app.declared_broker) as place:
        app.cluster = place.cluster
        app.keep_identity = keep_identity
        if datadir is not None:
            datadir.mkdir(parents=True, exist_ok=True)
        told = {"datadir": datadir, "web_bind": web_bind, "web_port": web_port, "web_host": web_host}
        app.configure(
            web_enabled=with_web and app.conf.web_enabled,
            **{name: value for name, value in told.items() if value is not None},
        )
        if end_with_stdin:
            threading.Thread(target=_end_with_stdin, daemon=True).start()
        run_worker(app, on_ready=_say_ready)


def _end_with_stdin() -> None:
    # Not through sys.stdin, whose lock a thread that never ends would hold at the interpreter's exit.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _say_ready(app: Any) -> None:
    web = f"   web http://{app.conf.web_bind}:{app.conf.web_port}" if app.conf.web_enabled else ""
    partitions = ", ".join(f"{t}[{p}]" for t, p in sorted(app.engine.assignment())) or "no partitions yet"
    click.echo(
        f"{app.conf.id}: ready on {app.cluster.bootstrap_servers}   pid {os.getpid()}{web}\n  {partitions}", err=True
    )
