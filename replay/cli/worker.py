"""`anabranch worker`: an app for ever."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...topics.errors import Stop, understood
from ...topics.printable import printable
from ...topics.private_folder import private_folder
from .. import signals
from .common_options import LEVELS, app_name, choose_cluster, cluster_options
from .logs import json_formatter, log_to_stderr
from .restore_bar import RestoreBar

if TYPE_CHECKING:
    from ...agents.app import App
    from ...topics.cluster import Cluster

__all__ = ["worker"]

logger = logging.getLogger("anabranch")

_LAST_PORT = 65_535


@click.command()
@click.option("-l", "--loglevel", type=LEVELS, default="warn", show_default=True)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("-D", "--datadir", type=click.Path(path_type=Path), help="Identity and state of this worker.")
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option("--with-web/--without-web", default=True, show_default=True, help="Serve tables and metrics on loopback.")
@click.option("-p", "--web-port", type=int, help="Of the web views; another free one where it is taken.")
@click.option("--web-host", help="Name under which other workers reach this one.")
@click.option("--web-bind", help="Address to listen at; loopback unless given.")
@click.option("--keep-identity", is_flag=True, help="On SIGTERM keep the partitions for this worker's restart.")
@click.option("--group-protocol", type=click.Choice(["classic", "consumer"]), help="consumer is KIP-848's.")
@click.option("--end-with-stdin", is_flag=True, hidden=True)
@click.option("--complete-by-stdin", is_flag=True, hidden=True)
@cluster_options
@click.pass_context
def worker(
    context: click.Context,
    loglevel: str,
    log_format: str,
    processes: int,
    end_with_stdin: bool,
    complete_by_stdin: bool,
    bootstrap_server: str | None,
    options: tuple[str, ...],
    **settings: Any,
) -> None:
    """Run the app's agents for ever: SIGTERM drains, commits, leaves the group, exits 0.

    With --processes, one parent runs several workers, starts those again that die, passes signals on and ends with
    their exit code; web ports count up from --web-port.

    \b
    Over HTTP: /healthz, /readyz, /metrics (Prometheus), /tables/TABLE/KEY/.

    \b
    Examples:
      anabranch -A shop worker -l info
      anabranch -A shop worker --processes 4 -l info --log-format json
      anabranch -A shop worker -b kafka:9092 -X security.protocol=SSL -X ssl.ca.location=ca.pem
    """
    log_to_stderr(loglevel, form=log_format)
    complete, ends = threading.Event(), dict[tuple[str, int], int]()
    if end_with_stdin:
        threading.Thread(target=_listen_to_stdin, args=(complete, ends), daemon=True).start()
    try:
        from ..app_loader import load_app, runtime_of

        app = load_app(app_name(context))
        if complete_by_stdin:
            runtime = runtime_of(app)
            runtime.history_complete, runtime.history_ends = complete, ends
            runtime.change_settings(notice_ends=True)
        with choose_cluster(bootstrap_server, options, runtime_of(app)) as place:
            lines = json_formatter()
            if lines is not None:
                lines.constant_fields["group"] = app.conf.id
                lines.hide(place.cluster.secrets)
            signals.leave_to_others()
            if processes > 1:
                told = ["-l", loglevel, "--log-format", log_format]
                _supervise(app, app_name(context), place.cluster, processes, told, settings)
            else:
                _work(app, place.cluster, settings)
    except signals.Terminated:
        return  # before it had begun
    except Exception as exc:
        if json_formatter() is None:
            raise
        code = _say_end(exc)
    else:
        return
    raise SystemExit(code)


def _work(app: App, cluster: Cluster, settings: dict[str, Any]) -> None:
    from ...agents.runtime import runtime_of
    from ...agents.worker import run_worker

    runtime = runtime_of(app)
    runtime.cluster = cluster
    runtime.keep_identity = settings["keep_identity"]
    if settings["group_protocol"]:
        runtime.change_settings(group_protocol=settings["group_protocol"])
    if settings["datadir"] is not None:
        private_folder(settings["datadir"])
    told = {name: settings[name] for name in ("datadir", "web_bind", "web_port", "web_host")}
    runtime.configure(
        web_enabled=settings["with_web"] and app.conf.web_enabled,
        **{name: value for name, value in told.items() if value is not None},
    )
    with RestoreBar() as bar:
        said = None if json_formatter() is None else _say_end
        run_worker(app, on_ready=_say_ready, on_progress=bar.show, on_hard_end=said)


def _supervise(
    app: App, name: str, cluster: Cluster, processes: int, told: list[str], settings: dict[str, Any]
) -> None:
    from ..runs.supervisor import Supervisor

    told += ["--with-web" if settings["with_web"] else "--without-web"]
    told += ["--keep-identity"] if settings["keep_identity"] else []
    for option in ("datadir", "web_host", "web_bind", "group_protocol"):
        if settings[option] is not None:
            told += [f"--{option.replace('_', '-')}", str(settings[option])]
    first = settings["web_port"] or app.conf.web_port
    arguments = [[*told, "--web-port", str(min(first + number, _LAST_PORT))] for number in range(processes)]
    as_json = json_formatter() is not None

    def write(number: int, line: str) -> None:
        line = printable(line)
        sys.stderr.write(f"{line}\n" if as_json else f"[{number}] {line}\n")  # one call a line, so that none is torn
        sys.stderr.flush()

    def tell(number: int, text: str) -> None:
        if as_json:
            logger.warning("worker %d %s", number, text)
        else:
            click.echo(printable(f"[{number}] worker {text}"), err=True)

    Supervisor(cluster, name, arguments, write=write, tell=tell).run()


def _listen_to_stdin(complete: threading.Event, ends: dict[tuple[str, int], int]) -> None:
    """What a run tells its workers, a line each (see `Crew`); its end is ours, too."""
    rest = b""
    # Not through sys.stdin, whose lock a thread that never ends would hold at the interpreter's exit.
    while data := os.read(0, 65_536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line == b"complete":
                complete.set()
            elif line.startswith(b"ends "):
                ends.update({(str(topic), int(number)): end for topic, number, end in json.loads(line[5:])})
    os.kill(os.getpid(), signal.SIGTERM)


def _say_ready(app: App) -> None:
    from ...agents.runtime import runtime_of

    runtime = runtime_of(app)
    web = f"   web http://{app.conf.web_bind}:{app.conf.web_port}" if app.conf.web_enabled else ""
    partitions = ", ".join(f"{t}[{p}]" for t, p in sorted(runtime.status.owned)) or "no partitions yet"
    ready = f"{app.conf.id}: ready on {runtime.cluster.bootstrap_servers}   pid {os.getpid()}{web}"
    if json_formatter() is not None:
        logger.info("%s   %s", ready, partitions)
    else:
        click.echo(printable(f"{ready}\n  {partitions}"), err=True)


def _say_end(error: BaseException) -> int:
    """Log why the worker ends; its exit code."""
    known = understood(error)
    logger.critical(
        str(known.args[0]) if known is not None else f"{type(error).__name__}: {error}",
        extra={"hint": known.hint or None} if known is not None else {},
        exc_info=None if known is not None else error,
    )
    return known.exit_code if known is not None else Stop.exit_code
