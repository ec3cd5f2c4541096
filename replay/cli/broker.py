"""`anabranch broker`: run the embedded Kafka broker."""

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
@click.option("--port", type=int, default=9092, show_default=True, help="Port to listen on; 0 chooses a free one.")
@click.option("--data", type=click.Path(path_type=Path), help="Data directory.  [default: .anabranch/broker]")
@click.option("--throw-away", is_flag=True, help="Start with an empty broker and delete its data on exit.")
@click.option("--heap-mb", type=int, default=512, show_default=True, help="Java heap size in MB.")
def broker(port: int, data: Path | None, throw_away: bool, heap_mb: int) -> None:
    """Run a single-node Apache Kafka on loopback until Ctrl-C or SIGTERM. For development, not for production.

    Needs neither Java nor a container: Kafka and a Java runtime are installed as packages.

    \b
    Examples:
      anabranch broker
      anabranch broker --port 0 --throw-away
    """
    from ...topics.devbroker.broker import EmbeddedBroker

    folder = None if throw_away else (data or home() / "broker")
    ended = threading.Event()
    with EmbeddedBroker(folder, port=port, heap_mb=heap_mb, on_progress=status_line) as kafka:
        signals.call_on_signal(ended.set)
        stats = kafka.stats
        click.echo(
            f"Kafka started in {stats.startup_s:.1f} s at {stats.bootstrap_servers} "
            f"({stats.rss_bytes() / 1e6:.0f} MB, data in {stats.data}{', deleted on exit' if throw_away else ''})"
        )
        while not ended.wait(0.5):
            if not kafka.alive:
                raise AnabranchError("Kafka exited unexpectedly", hint=f"see {stats.data / 'broker.log'}")
    click.echo("Kafka stopped")
