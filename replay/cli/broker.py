"""`anabranch broker`: a Kafka of our own."""

from __future__ import annotations

import threading
from pathlib import Path

import click

from ...topics.errors import AnabranchError
from .. import signals
from ..cluster_choice import home
from .common_options import status_line

__all__ = ["broker"]


@click.command()
@click.option("--port", type=int, default=9092, show_default=True, help="0 for any free one.")
@click.option("--data", type=click.Path(path_type=Path), help="Where records are kept; .anabranch/broker unless given.")
@click.option("--throw-away", is_flag=True, help="Keep nothing.")
@click.option("--heap-mb", type=int, default=512, show_default=True, help="Memory for Java.")
def broker(port: int, data: Path | None, throw_away: bool, heap_mb: int) -> None:
    """Run a real single-node Apache Kafka on loopback, for development: Ctrl-C or SIGTERM ends it.

    Needs no Java and no container: both Kafka and a Java runtime come as packages. Not for production.

    \b
    Examples:
      anabranch broker
      anabranch broker --port 0 --throw-away
    """
    from ...topics.devbroker.broker import EmbeddedBroker

    folder = None if throw_away else (data or home() / "broker")
    ended = threading.Event()
    with EmbeddedBroker(folder, port=port, heap_mb=heap_mb, on_progress=status_line) as kafka:
        signals.stopping(ended.set)
        stats = kafka.stats
        click.echo(
            f"Kafka is up at {stats.bootstrap_servers} after {stats.startup_s:.1f} s, "
            f"{stats.rss_bytes() / 1e6:.0f} MB, data in {stats.data}{' (thrown away at the end)' if throw_away else ''}"
        )
        while not ended.wait(0.5):
            if not kafka.alive:
                raise AnabranchError("Kafka ended by itself", hint=f"see {stats.data / 'broker.log'}")
    click.echo("Kafka has ended")
