"""`anabranch broker`: the embedded Kafka broker, in the foreground or in the background."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import click

from ...topics import clock
from ...topics.errors import AnabranchError, Stop
from ...topics.printable import printable
from .. import signals
from ..cluster_choice import home
from ..time_text import format_local_time
from .common_options import CommandFunction, announce_start, status_line
from .console import counted

__all__ = ["broker"]

_LOG_EVERY_S = 0.5
_PORTS = click.IntRange(0, 65_535)
_LEAST_HEAP_MB = 64  # with less, Java does not start Kafka


def _data_option(command: CommandFunction) -> CommandFunction:
    help = "Data directory.  [default: .anabranch/broker]"
    return click.option("--data", type=click.Path(path_type=Path), help=help)(command)


def _folder(data: Path | None) -> Path:
    return data.absolute() if data is not None else home() / "broker"


@click.group(invoke_without_command=True)
@click.option("--port", type=_PORTS, default=9092, show_default=True, help="Port to listen on; 0 chooses a free one.")
@_data_option
@click.option("--throw-away", is_flag=True, help="Start with an empty broker and delete its data on exit.")
@click.option(
    "--heap-mb", type=click.IntRange(_LEAST_HEAP_MB), default=512, show_default=True, help="Java heap size in MB."
)
@click.pass_context
def broker(context: click.Context, port: int, data: Path | None, throw_away: bool, heap_mb: int) -> None:
    """Run a single-node Apache Kafka on loopback until Ctrl-C or SIGTERM. For development, not for production.

    Needs neither Java nor a container: Kafka and a Java runtime are installed as packages.

    Commands that are given no cluster start this broker by themselves, in the background, one for each folder. It ends
    when no command has used it and no client has been connected for 5 minutes. The subcommands are about that broker.

    \b
    Examples:
      anabranch broker status
      anabranch broker stop
      anabranch broker logs -f
      anabranch broker --port 0 --throw-away
    """
    if context.invoked_subcommand:
        return
    from ...topics.devbroker.broker import EmbeddedBroker

    folder = None if throw_away else _folder(data)
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


@broker.command()
@_data_option
@click.option("--port", type=_PORTS, default=0, help="Port to listen on.  [default: the last one, 9092, or a free one]")
def start(data: Path | None, port: int) -> None:
    """Start the broker in the background, unless it runs.

    \b
    Examples:
      anabranch broker start
      anabranch broker start --port 9093
    """
    from ...topics.devbroker import background
    from ...topics.devbroker.running_broker import running_at

    folder = _folder(data)
    if (running := running_at(folder)) is not None:
        if port and not running.servers.endswith(f":{port}"):
            raise Stop(f"Kafka runs already at {running.servers}", hint="anabranch broker stop, then start it again")
        click.echo(f"Kafka runs already at {running.servers}")
        return
    if (stats := background.start(folder, port=port, on_progress=status_line)) is not None:
        announce_start(stats, f"; it ends after {background.IDLE_S / 60:.0f} minutes without use")


@broker.command()
@_data_option
def stop(data: Path | None) -> None:
    """Stop the broker of this folder; it keeps its data.

    \b
    Example:
      anabranch broker stop
    """
    from ...topics.devbroker import background
    from ...topics.devbroker.running_broker import running_at

    folder = _folder(data)
    if (running := running_at(folder)) is None:
        click.echo(f"no Kafka runs in {folder}")
        return
    clients = running.clients() or 0
    background.stop(running)
    connected = f"; {counted(clients, 'connection')} of clients ended" if clients else ""
    click.echo(f"Kafka at {running.servers} stopped{connected}")


@broker.command()
@_data_option
def status(data: Path | None) -> None:
    """Show whether the broker of this folder runs, where, and who uses it. Exits with 1 if it does not run.

    \b
    Example:
      anabranch broker status
    """
    from ...topics.devbroker.background import IDLE_S
    from ...topics.devbroker.broker import memory_bytes
    from ...topics.devbroker.lease import Lease
    from ...topics.devbroker.running_broker import running_at

    folder = _folder(data)
    running = running_at(folder)
    if running is None:
        click.echo(f"no Kafka runs in {folder}; the next command that needs one starts it")
        raise SystemExit(1)
    megabytes = memory_bytes(running.pid) / 1e6
    click.echo(f"Kafka {running.kafka} runs at {running.servers} since {format_local_time(running.started_ms)}")
    click.echo(f"  process {running.pid}, {megabytes:.0f} MB; data in {printable(folder)}")
    clients = running.clients()
    used = Lease.is_held(folder)
    shown = [] if clients is None else [counted(clients, "client connection")]
    shown.append("used by commands of this folder" if used else "not used by a command of this folder")
    click.echo(f"  {', '.join(shown)}")
    if running.background:
        click.echo(f"  in the background; it ends after {IDLE_S / 60:.0f} minutes without use")
    else:
        click.echo(f"  in the foreground of process {running.owner}")


@broker.command()
@_data_option
@click.option("-f", "--follow", is_flag=True, help="Show new lines until Ctrl-C.")
@click.option("-n", "most", type=click.IntRange(0), default=40, show_default=True, help="Lines of each file to show.")
def logs(data: Path | None, follow: bool, most: int) -> None:
    """Show when the broker of this folder started and ended, and the warnings of Kafka's log.

    \b
    Examples:
      anabranch broker logs
      anabranch broker logs -n 200 -f
    """
    from ...topics.devbroker.background import LOG

    files = [_folder(data) / name for name in (LOG, "broker.log")]
    read: dict[Path, int] = {}
    for file in files:
        text = file.read_bytes() if file.exists() else b""
        read[file] = len(text)
        click.echo(f"==> {printable(file)}", err=True)
        for line in text.decode(errors="replace").splitlines()[max(0, text.count(b"\n") - most) :]:
            click.echo(printable(line))
    if not follow:
        return
    try:
        while True:
            clock.sleep(_LOG_EVERY_S)
            for file in files:
                _show_new(file, read)
    except KeyboardInterrupt:
        return


def _show_new(file: Path, read: dict[Path, int]) -> None:
    size = file.stat().st_size if file.exists() else 0
    if size < read[file]:  # a new broker writes a new log
        read[file] = 0
    if size > read[file]:
        with file.open("rb") as lines:
            lines.seek(read[file])
            text = lines.read()
        read[file] += len(text)
        sys.stdout.write(printable(text.decode(errors="replace")))
        sys.stdout.flush()
