"""The `anabranch` command. Flags win over the environment, which wins over defaults."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import click

from ..topics.errors import AnabranchError, Usage
from .ground import home
from .options import LEVELS, cluster_options, format_options, log_to_stderr, on_ground, passing

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-A", "--app", "app_name", metavar="MODULE", help="The app: module, module:app or path/to/file.py.")
@click.option("-W", "--workdir", type=click.Path(exists=True, file_okay=False), help="Change to this folder first.")
@click.version_option(package_name="anabranch", prog_name="anabranch")
@click.pass_context
def cli(context: click.Context, app_name: str | None, workdir: str | None) -> None:
    """Stream processing on Kafka, with replay: one program for the live topic and for a file of history.

    \b
    Examples:
      anabranch -A shop worker -l info
      anabranch run shop --input 'orders/*.jsonl.gz' --key user --output totals.csv
      anabranch replay data.txt --to lines --key-before ,
      anabranch -A shop tables totals
    """
    if workdir:
        os.chdir(workdir)
    context.obj = app_name


def _app_name(context: click.Context) -> str:
    if not context.obj:
        raise Usage("no app", hint="name it: anabranch -A MODULE …")
    return context.obj


@cli.command()
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
    from ..agents.worker import run_worker
    from .loading import load_app

    log_to_stderr(loglevel)
    app = load_app(_app_name(context))
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


@cli.command()
@click.argument("module", required=False)
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="[TOPIC=]PATH", help="File, glob or archive; may be repeated."
)
@click.option(
    "--then", multiple=True, metavar="[TOPIC=]PATH", help="An input that starts when those before are through."
)
@click.option("-k", "--key", multiple=True, metavar="[TOPIC=]FIELD", help="Field that becomes the record's key.")
@click.option(
    "-t", "--time", "times", multiple=True, metavar="[TOPIC=]FIELD", help="Field that holds the record's time."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file: .txt .csv .json .jsonl .parquet")
@click.option("--table", help="The table that is the result; needed where the app has several and --output is given.")
@click.option("--run-id", help="Name of the run; else it follows from program, inputs and options.")
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option("--on-bad-line", type=click.Choice(["fail", "skip", "dead-letter"]), default="fail", show_default=True)
@click.option("-l", "--loglevel", type=LEVELS, default="warn", show_default=True)
@format_options
@cluster_options
@click.pass_context
def run(
    context: click.Context,
    module: str | None,
    inputs: tuple[str, ...],
    then: tuple[str, ...],
    key: tuple[str, ...],
    times: tuple[str, ...],
    output: Path | None,
    table: str | None,
    run_id: str | None,
    processes: int,
    on_bad_line: str,
    loglevel: str,
    bootstrap_server: str | None,
    options: tuple[str, ...],
    **form: Any,
) -> None:
    """Run an app over history: replay, drain, write the result, exit 0.

    The run has topics, tables and a group of its own, so it never touches live totals. Started again after a crash it
    goes on where it was; started again when it is finished it only writes the result anew.

    \b
    Examples:
      anabranch run shop --input 'orders/*.jsonl.gz' --key user --output totals.csv
      anabranch run anabranch.agents.jobs.flights --key carrier --time flights=time_hour \\
          --input airlines=airlines.csv --then flights=flights.csv.zip --table carriers --output carriers.csv
    """
    from .inputs import parse_inputs
    from .run import BoundedRun
    from .show import RunView, show_run

    log_to_stderr(loglevel)
    name = module or _app_name(context)
    if not inputs and not then:
        raise Usage("nothing to run over", hint="--input FILE")
    asked = parse_inputs(inputs, then, key, times, form)
    with on_ground(bootstrap_server, options) as place, RunView() as view:
        bounded = BoundedRun(
            place.cluster,
            name,
            asked,
            output=output,
            table=table,
            run_id=run_id,
            processes=processes,
            on_bad_line=on_bad_line,  # pyright: ignore[reportArgumentType] (click has checked it)
            watcher=view,
        )
        with _terminated_as_interrupt():
            report = bounded.execute()
    show_run(report)


@contextlib.contextmanager
def _terminated_as_interrupt() -> Generator[None]:
    """SIGTERM ends long work as Ctrl-C does: in order, and to be gone on with."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE…")
@click.option("--to", "topic", required=True, metavar="TOPIC", help="Made with 4 partitions where it does not exist.")
@click.option("-k", "--key", metavar="FIELD", help="Field that becomes the record's key.")
@click.option("-t", "--time", metavar="FIELD", help="Field that holds the record's time.")
@click.option("--partitions", type=click.IntRange(1), help="Of a topic that does not exist.")
@click.option("--run-id", help="Name of the run; else it follows from sources, options and topic.")
@click.option("--on-bad-line", type=click.Choice(["fail", "skip", "dead-letter"]), default="fail", show_default=True)
@click.option("--follow", is_flag=True, help="A socket: connect again when it ends.")
@click.option("-l", "--loglevel", type=LEVELS, default="warn", show_default=True)
@format_options
@cluster_options
def replay(
    sources: tuple[str, ...],
    topic: str,
    key: str | None,
    time: str | None,
    partitions: int | None,
    run_id: str | None,
    on_bad_line: str,
    follow: bool,
    loglevel: str,
    bootstrap_server: str | None,
    options: tuple[str, ...],
    **form: Any,
) -> None:
    """Feed files, or a socket of lines, into a topic: each record once, resumable.

    SOURCE is a file, a glob, a .gz or .zip of text, CSV or JSON Lines, or tcp://host:port. Killed and started again,
    the same command goes on where it was; finished, it writes nothing. A socket cannot be read again, so what was
    received and not committed at a crash is lost.

    \b
    Examples:
      anabranch replay data.txt --to lines --key-before ,
      anabranch replay flights.csv.zip --to flights --key carrier --time time_hour
      nc -lk 9999 & anabranch replay tcp://localhost:9999 --to lines --key-before ,
    """
    from .history import find_history
    from .inputs import format_of
    from .player import Player
    from .show import ProgressView, show_replay

    log_to_stderr(loglevel)
    history = find_history(list(sources), format_of(form, key=key, time=time), follow=follow)
    with on_ground(bootstrap_server, options) as place, ProgressView() as view:
        player = Player(
            place.cluster,
            history,
            topic,
            run_id=run_id,
            partitions=partitions,
            on_bad_line=on_bad_line,  # pyright: ignore[reportArgumentType] (click has checked it)
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: player.stop())
        report = player.play(lambda progress: view.replaying(f"replay → {topic}", progress))
    show_replay(report)


@cli.command()
@click.argument("name", required=False, metavar="[TABLE]")
@click.option("--key", help="Only this key.")
@click.option("--follow", is_flag=True, help="Show it anew every second.")
@click.option("--digest", is_flag=True, help="Only the digest: equal for equal content.")
@click.option("-J", "--json", "as_json", is_flag=True, help="JSON lines, all keys.")
@click.option("-n", "most", type=int, default=20, show_default=True, help="Rows to show.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write to a file: .txt .csv .json .jsonl .parquet"
)
@click.option("--run-id", help="Of a bounded run, instead of the live tables.")
@cluster_options
@click.pass_context
def tables(
    context: click.Context,
    name: str | None,
    key: str | None,
    follow: bool,
    digest: bool,
    as_json: bool,
    most: int,
    output: Path | None,
    run_id: str | None,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Show a table's content, as committed, whether a worker runs or not.

    \b
    Examples:
      anabranch -A shop tables
      anabranch -A shop tables totals --key alice
      anabranch -A shop tables totals --follow
    """
    from .look import look

    log_to_stderr(None)
    if run_id:
        os.environ["ANABRANCH_RUN"] = run_id
    from .loading import load_app

    app = load_app(_app_name(context))
    with on_ground(bootstrap_server, options, app.declared_broker) as place:
        app.cluster = place.cluster
        look(app, name, key=key, follow=follow, digest=digest, as_json=as_json, most=most, output=output)


@cli.command()
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
    from ..topics.broker import EmbeddedBroker

    folder = None if throw_away else (data or home() / "broker")
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with EmbeddedBroker(folder, port=port, heap_mb=heap_mb, on_progress=passing) as kafka:
        stats = kafka.stats
        click.echo(
            f"Kafka is up at {stats.bootstrap_servers} after {stats.startup_s:.1f} s, "
            f"{stats.rss_bytes() / 1e6:.0f} MB, data in {stats.data}{' (thrown away at the end)' if throw_away else ''}"
        )
        while not ended.wait(0.5):
            if not kafka.alive:
                raise AnabranchError("Kafka ended by itself", hint=f"see {stats.data / 'broker.log'}")
    click.echo("Kafka has ended")


@cli.command()
@cluster_options
def demo(bootstrap_server: str | None, options: tuple[str, ...]) -> None:
    """Show the main jobs: the keyed sum over a file and over a socket, and a year of flights."""
    from .demo import run_demo

    log_to_stderr(None)
    with on_ground(bootstrap_server, options, keep=False) as place:
        run_demo(place)


def main() -> None:
    """Entry point: errors are said in a line or two, with what to do, and an exit code."""
    try:
        cli.main(standalone_mode=False, prog_name="anabranch")
    except AnabranchError as exc:
        click.echo(f"error: {exc}", err=True)
        raise SystemExit(exc.exit_code) from None
    except click.ClickException as exc:
        exc.show()
        raise SystemExit(exc.exit_code) from None
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; the same command goes on from there", err=True)
        raise SystemExit(130) from None
    except click.exceptions.Exit as exc:
        raise SystemExit(exc.exit_code) from None
