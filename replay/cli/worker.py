"""`anabranch worker`: run an app's agents on live topics."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

import click

from ...topics.errors import Stop, Usage, described, understood
from ...topics.printable import printable
from ...topics.private_folder import private_folder
from ...topics.topic_partition import TopicPartition
from .. import signals
from .common_options import LEVELS, app_name, choose_cluster, cluster_options, show_private_option
from .logs import json_formatter, log_to_stderr
from .restore_bar import RestoreBar

if TYPE_CHECKING:
    from ...agents.app import App
    from ...topics.cluster import Cluster
    from ..cluster_choice import ClusterChoice

__all__ = ["worker"]

logger = logging.getLogger("anabranch")

_LAST_PORT = 65_535


class WorkerSettings(TypedDict):
    """Values of the options that configure each worker process."""

    datadir: Path | None
    with_web: bool
    web_port: int | None
    web_host: str | None
    web_bind: str | None
    keep_identity: bool
    group_protocol: Literal["classic", "consumer"] | None


@click.command()
@click.option("-l", "--loglevel", type=LEVELS, default="warn", show_default=True, help="Log level.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Log format."
)
@click.option("-D", "--datadir", type=click.Path(path_type=Path), help="Directory for the worker's identity and state.")
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of worker processes."
)
@click.option(
    "--with-web/--without-web",
    default=True,
    show_default=True,
    help="Serve health checks, metrics and tables over HTTP.",
)
@click.option(
    "-p", "--web-port", type=click.IntRange(1, _LAST_PORT), help="HTTP port; if it is taken, a free one is chosen."
)
@click.option("--web-host", help="Host name under which other workers reach this one.")
@click.option("--web-bind", help="Address to listen on.  [default: loopback]")
@click.option(
    "--keep-identity", is_flag=True, help="On SIGTERM, keep the partitions assigned for a restart of this worker."
)
@click.option(
    "--group-protocol",
    type=click.Choice(["classic", "consumer"]),
    help="Rebalance protocol; consumer is that of KIP-848.",
)
@show_private_option
@click.option("--reload", is_flag=True, help="Restart the worker when a file of the program changes.")
@click.option("--end-with-stdin", is_flag=True, hidden=True)
@click.option("--describe", is_flag=True, hidden=True)
@click.option("--embedded", is_flag=True, hidden=True)
@click.option("--complete-by-stdin", is_flag=True, hidden=True)
@click.option("--aligned", multiple=True, metavar="TOPIC,…", hidden=True)
@cluster_options
@click.pass_context
def worker(
    context: click.Context,
    loglevel: str,
    log_format: str,
    processes: int,
    reload: bool,
    describe: bool,
    embedded: bool,
    end_with_stdin: bool,
    complete_by_stdin: bool,
    aligned: tuple[str, ...],
    bootstrap_server: str | None,
    options: tuple[str, ...],
    **settings: Unpack[WorkerSettings],
) -> None:
    """Run an app's agents on live topics until SIGTERM or Ctrl-C.

    On SIGTERM, the worker finishes its current records, commits, leaves the group and exits with 0.

    With --processes, a parent process runs several workers, restarts workers that crash, forwards signals and exits
    with the workers' exit code. Their HTTP ports count up from --web-port.

    With --reload, the worker is restarted when a Python file of the working directory or of the program changes: it
    commits and leaves the group first, so that each record is processed once. An error in the program is shown, and the
    next change starts the worker again.

    Enter, at the terminal of the worker, shows a status line: rate, lag, partitions; so does SIGUSR1. There is one each
    minute in which records were processed.

    \b
    HTTP endpoints: /healthz, /readyz, /metrics (Prometheus), /tables/TABLE/KEY/.

    \b
    Examples:
      anabranch -A shop worker -l info
      anabranch -A shop worker --reload
      anabranch -A shop worker --processes 4 -l info --log-format json
      anabranch -A shop worker -b kafka:9092 -X security.protocol=SSL -X ssl.ca.location=ca.pem
    """
    log_to_stderr(loglevel, form=log_format)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until the worker is ready; its default ends the process
    complete, ends = threading.Event(), dict[TopicPartition, int]()
    if end_with_stdin:
        threading.Thread(target=_listen_to_stdin, args=(complete, ends), daemon=True).start()
    try:
        from ..app_loader import declared_cluster, load_app, runtime_of

        if reload:
            if processes > 1:
                raise Usage("--reload runs one worker", hint="omit --processes")
            with choose_cluster(bootstrap_server, options, declared_cluster(app_name(context))) as choice:
                signals.disable_deadline()
                _reload(app_name(context), choice, ["-l", loglevel, "--log-format", log_format], settings)
            return
        app = load_app(app_name(context))
        if complete_by_stdin:
            runtime = runtime_of(app)
            runtime.history_complete, runtime.history_ends = complete, ends
            runtime.aligned = [topics.split(",") for topics in aligned]
            runtime.change_settings(notice_ends=True)
        with choose_cluster(bootstrap_server, options, runtime_of(app)) as choice:
            formatter = json_formatter()
            if formatter is not None:
                formatter.constant_fields["group"] = app.conf.id
            signals.disable_deadline()
            if processes > 1:
                arguments = ["-l", loglevel, "--log-format", log_format]
                _supervise(app, app_name(context), choice.cluster, processes, arguments, settings)
            else:
                choice = replace(choice, embedded=choice.embedded or embedded)
                _work(app, choice, settings, app_name(context), brief=end_with_stdin and not describe)
    except signals.Terminated:
        return  # before the worker started
    except Exception as exc:
        if json_formatter() is None:
            raise
        code = _log_end(exc)
    else:
        return
    raise SystemExit(code)


def _work(app: App, choice: ClusterChoice, settings: WorkerSettings, name: str, *, brief: bool) -> None:
    from ...agents.runtime import runtime_of
    from ...agents.worker import run_worker
    from .worker_report import WorkerReport

    runtime = runtime_of(app)
    runtime.cluster = choice.cluster
    runtime.keep_identity = settings["keep_identity"]
    if settings["group_protocol"]:
        runtime.change_settings(group_protocol=settings["group_protocol"])
    if settings["datadir"] is not None:
        private_folder(settings["datadir"])
    given = {name: settings[name] for name in ("datadir", "web_bind", "web_port", "web_host")}
    runtime.configure(
        web_enabled=settings["with_web"] and app.conf.web_enabled,
        **{name: value for name, value in given.items() if value is not None},
    )
    if signals.received():
        return  # the exception of the signal was swallowed, by a destructor of the program for example
    with RestoreBar() as bar:
        on_hard_end = None if json_formatter() is None else _log_end
        report = WorkerReport(runtime, name, embedded=choice.embedded, brief=brief)
        run_worker(app, on_ready=lambda _: report.on_ready(), on_progress=bar.show, on_hard_end=on_hard_end)
    report.on_end()


def _supervise(
    app: App, name: str, cluster: Cluster, processes: int, shared: list[str], settings: WorkerSettings
) -> None:
    """Run several workers as child processes (blocking).

    Args:
        shared: arguments that all workers get, besides those that `settings` stands for.
    """
    from ..runs.worker_pool import Supervisor
    from .worker_report import offer_status

    shared += _arguments(settings)
    first = settings["web_port"] or app.conf.web_port
    arguments = [[*shared, "--web-port", str(min(first + number, _LAST_PORT))] for number in range(processes)]
    as_json = json_formatter() is not None

    def write(number: int, line: str) -> None:
        line = printable(line)
        sys.stderr.write(f"{line}\n" if as_json else f"[{number}] {line}\n")  # one call per line keeps lines whole
        sys.stderr.flush()

    def on_restart(number: int, text: str) -> None:
        if as_json:
            logger.warning("worker %d %s", number, text)
        else:
            click.echo(printable(f"[{number}] worker {text}"), err=True)

    supervisor = Supervisor(cluster, name, arguments, write=write, on_restart=on_restart)
    offer_status(supervisor.show_status)
    supervisor.run()


def _arguments(settings: WorkerSettings) -> list[str]:
    """Return the options that stand for `settings`, without the port."""
    made = ["--with-web" if settings["with_web"] else "--without-web"]
    made += ["--keep-identity"] if settings["keep_identity"] else []
    for option in ("datadir", "web_host", "web_bind", "group_protocol"):
        if settings[option] is not None:
            made += [f"--{option.replace('_', '-')}", str(settings[option])]
    return made


def _reload(name: str, choice: ClusterChoice, shared: list[str], settings: WorkerSettings) -> None:
    """Run a worker as a child process, and restart it when its program changes (blocking)."""
    from ..runs.reloader import Reloader
    from .worker_report import offer_status

    def say(text: str) -> None:
        if json_formatter() is not None:
            logger.info(text)
        else:
            click.echo(printable(text), err=True)

    port = [] if settings["web_port"] is None else ["--web-port", str(settings["web_port"])]
    # The worker is told where the broker is, so it cannot know itself that this is the embedded one.
    about = ["--describe", *(["--embedded"] if choice.embedded else [])]
    reloader = Reloader(choice.cluster, name, [*about, *shared, *_arguments(settings), *port], say=say)
    offer_status(reloader.show_status)
    reloader.run()


def _listen_to_stdin(complete: threading.Event, ends: dict[TopicPartition, int]) -> None:
    """Receive the messages of the parent, one per line (see `worker_pool.py`); terminate when stdin closes."""
    from ..runs.worker_pool import STATUS

    rest = b""
    # sys.stdin is not used: this thread would hold its lock at the interpreter's exit.
    while data := os.read(0, 65_536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line == b"complete":
                complete.set()
            elif line == STATUS.encode():
                os.kill(os.getpid(), signal.SIGUSR1)
            elif line.startswith(b"ends "):
                ends.update(
                    {TopicPartition(str(topic), int(number)): end for topic, number, end in json.loads(line[5:])}
                )
    os.kill(os.getpid(), signal.SIGTERM)


def _log_end(error: BaseException) -> int:
    """Log why the worker ends, and return its exit code."""
    known = understood(error)
    logger.critical(
        str(known.args[0]) if known is not None else described(error),
        extra={"hint": known.hint or None} if known is not None else {},
        exc_info=None if known is not None else error,
    )
    return known.exit_code if known is not None else Stop.exit_code
