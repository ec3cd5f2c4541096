"""Worker processes of one app: started, restarted when they die, and stopped with their parent.

`WorkerProcesses` is the mechanism: numbered child processes, their standard input, their exit codes. Two classes use it
and differ in what a death means, so they are not one:

                    WorkerPool                            Supervisor
    used by         a bounded run                         `worker --processes N`
    lives           as long as the run                    until SIGTERM or SIGINT
    killed worker   restarted at once, 10 times in all    restarted; later each time if it dies within 60 s of its
                                                          start; the fourth such death in a row is an error
    exit code > 0   an error: the run cannot finish       restarted in the same way; 2 (the program or its
                                                          configuration has to change) is an error
    output          a log file for each worker            passed on line by line
    told            when the history is complete          nothing
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

from ...topics import clock
from ...topics.cluster import Cluster
from ...topics.errors import Stop, Usage
from ...topics.private_folder import private_folder
from ...topics.topic_partition import TopicPartition

__all__ = ["STATUS", "Supervisor", "WorkerPool"]

logger = logging.getLogger(__name__)

# A worker gives its agents 30 s to finish their records and its clients 10 s to close (`agents/worker.py`).
_END_S = 60.0
# When the parent fails: less than the time that a command has to end after a signal. Workers whose parent is gone end
# by themselves.
_ABANDON_S = 4.0

# Of a bounded run, over all its workers.
_MAX_RESTARTS = 10

# Of the supervisor.
_POLL_S = 0.1
# A line for a worker's standard input: show your status.
STATUS = "status"

_EARLY_DEATH_S = 60.0
_MAX_EARLY_DEATHS = 4
_RESTART_PAUSE_S = 0.5
_KEPT_LINES = 50


class WorkerProcesses:
    """Numbered worker processes. The caller decides what to do when one dies.

    A worker ends when its parent does, however the parent ends: the worker reads the end of its standard input then
    (`--end-with-stdin`).

    Args:
        environment: variables of the workers, in addition to those of this process.
    """

    def __init__(self, cluster: Cluster, environment: Mapping[str, str] | None = None) -> None:
        # Options may hold secrets. The environment, unlike the command line, is not shown in the process list.
        self._environment = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": cluster.bootstrap_servers,
            "ANABRANCH_OPTIONS": "\n".join(f"{name}={value}" for name, value in cluster.options.items()),
            **(environment or {}),
        }
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that were started and whose end has not been reported yet."""
        return [process.pid for process in self._running.values()]

    def start(self, number: int, app_name: str, arguments: Sequence[str], output: IO[bytes]) -> None:
        """Start worker `number`.

        Args:
            arguments: options of the command `anabranch -A <app_name> worker`.
            output: file for the worker's stdout and stderr; it is closed in this process.
        """
        with output:
            self._running[number] = subprocess.Popen(  # noqa: S603 (our own interpreter, arguments in a list)
                [sys.executable, "-m", "anabranch", "-A", app_name, "worker", "--end-with-stdin", *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,  # Ctrl-C goes to the parent alone, which stops the workers in order
            )

    def ended(self) -> list[tuple[int, int]]:
        """Return (number, exit code) of the workers that ended since the last call.

        A negative exit code is the number of the signal that killed the worker.
        """
        found = [(number, code) for number, p in self._running.items() if (code := p.poll()) is not None]
        for number, _ in found:
            self._remove(number)
        return found

    def write_line(self, line: str) -> None:
        """Write a line to the standard input of every worker."""
        for process in self._running.values():
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # the worker has just died
                process.stdin.write(f"{line}\n".encode())
                process.stdin.flush()

    def stop(self, timeout_s: float = _END_S) -> tuple[dict[int, int], list[int]]:
        """Send SIGTERM to all workers and wait for them; kill those that are still alive after `timeout_s` (blocking).

        Returns:
            The exit codes of the workers that failed, by number, and the numbers of the workers that were killed. A
            worker that SIGTERM ended before it had installed its handler has not failed.
        """
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        failed: dict[int, int] = {}
        killed: list[int] = []
        deadline_s = clock.now_s() + timeout_s
        for number, process in list(self._running.items()):
            try:
                code = process.wait(max(0.0, deadline_s - clock.now_s()))
                if code not in (0, -signal.SIGTERM):
                    failed[number] = code
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed.append(number)
            self._remove(number)
        return failed, killed

    def _remove(self, number: int) -> None:
        stdin = self._running.pop(number).stdin
        assert stdin is not None
        stdin.close()

    def __enter__(self) -> WorkerProcesses:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop(_ABANDON_S)


class WorkerPool:
    """The workers of a bounded run. A context manager: at its end it stops the workers that still run.

    Args:
        app_name: the app, as for the command line's `-A`.
        run_id: the bounded run that the workers belong to.
        data: folder for the workers' identities and logs (`worker-<n>.log`).
        processes: how many workers.
        aligned: groups of topics whose records workers process in the order of their times.
        environment: variables of the workers.

    Attributes:
        restarts: how many workers were restarted so far.
    """

    def __init__(
        self,
        cluster: Cluster,
        app_name: str,
        run_id: str,
        data: Path,
        *,
        processes: int = 1,
        aligned: Sequence[Sequence[str]] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._app_name, self._data, self._count, self._aligned = app_name, data, processes, aligned
        self._processes = WorkerProcesses(cluster, {"ANABRANCH_RUN": run_id, **(environment or {})})
        self.restarts = 0
        self._complete = False
        self._end_offsets: dict[TopicPartition, int] = {}

    @property
    def pids(self) -> list[int]:
        """Process ids of the running workers."""
        return self._processes.pids

    def start(self) -> None:
        """Start all workers."""
        private_folder(self._data)
        for number in range(self._count):
            self._start(number)

    def _log(self, number: int) -> Path:
        return self._data / f"worker-{number}.log"

    def _start(self, number: int) -> None:
        arguments = ["--without-web", "-l", "info", "--datadir", str(self._data), "--complete-by-stdin"]
        arguments += [f"--aligned={','.join(topics)}" for topics in self._aligned]
        self._processes.start(number, self._app_name, arguments, self._log(number).open("ab"))
        self._notify()

    def check(self) -> None:
        """Restart the workers that were killed: a kill loses nothing, so the run can continue.

        Raises:
            Stop: a worker ended by itself (the error quotes its last lines), or workers were killed too often.
        """
        for number, code in self._processes.ended():
            if code >= 0:
                raise self._failed(number, code)
            if self.restarts >= _MAX_RESTARTS:
                raise Stop(
                    f"worker {number} was killed, after {self.restarts} restarts",
                    hint=f"its log is {self._log(number)}",
                )
            self.restarts += 1
            logger.warning("worker %d was killed by signal %d: restarted", number, -code)
            self._start(number)

    def _failed(self, number: int, code: int) -> Stop:
        lines = self._log(number).read_text(errors="replace").splitlines()
        return Stop(f"worker {number} ended with exit code {code}: {_error_in(lines) or f'see {self._log(number)}'}")

    def history_complete(self) -> None:
        """Tell the workers that all history is in Kafka: from now on they commit as soon as they are idle."""
        if not self._complete:
            self._complete = True
            self._notify()

    def set_end_offsets(self, end_offsets: Mapping[TopicPartition, int]) -> None:
        """Tell the workers where the history of partitions ends, so that agents flush an incomplete `take` there.

        Args:
            end_offsets: by topic and partition, the offset after the last record.
        """
        if not end_offsets.items() <= self._end_offsets.items():
            self._end_offsets |= end_offsets
            self._notify()

    def _notify(self) -> None:
        """Send the present state to all workers. It is idempotent, so a worker may receive it more than once."""
        if self._complete:
            self._processes.write_line("complete")
        if self._end_offsets:
            ends = [[*at, end] for at, end in self._end_offsets.items()]
            self._processes.write_line(f"ends {json.dumps(ends, separators=(',', ':'))}")

    def stop(self) -> None:
        """Stop the workers with SIGTERM, so that they commit and leave the group (blocking).

        Raises:
            Stop: a worker failed, or did not end in time and was killed.
        """
        failed, killed = self._processes.stop()
        if killed:
            raise Stop(
                f"worker {killed[0]} did not end within {_END_S:.0f} s of SIGTERM, and was killed",
                hint=f"see {self._log(killed[0])}",
            )
        for number, code in failed.items():
            raise self._failed(number, code)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._processes.__exit__(kind, exc, tb)


@dataclass(slots=True)
class _Worker:
    """One worker of a supervisor, across its restarts.

    Attributes:
        started_s: when its process was started (monotonic clock).
        due_s: when it is to be started again; None while it runs.
        early_deaths: how often in a row it died within `_EARLY_DEATH_S` of its start.
        lines: its last lines of output.
        reader: the thread that reads its output.
    """

    started_s: float = 0.0
    due_s: float | None = 0.0
    early_deaths: int = 0
    lines: deque[str] = field(default_factory=lambda: deque[str](maxlen=_KEPT_LINES))
    reader: threading.Thread | None = None


class Supervisor:
    """Runs several workers of an app on one machine until SIGTERM or SIGINT, and passes the signal on to them; SIGUSR1
    as well.

    Args:
        app_name: the app, as for the command line's `-A`.
        arguments: the options of each worker's command, by the worker's number.
        write: called with (number, line) for each line that a worker writes, from several threads.
        on_restart: called with (number, text) when a worker is restarted.
    """

    def __init__(
        self,
        cluster: Cluster,
        app_name: str,
        arguments: Sequence[Sequence[str]],
        *,
        write: Callable[[int, str], None],
        on_restart: Callable[[int, str], None],
    ) -> None:
        self._app_name, self._arguments = app_name, arguments
        self._write, self._on_restart = write, on_restart
        self._processes = WorkerProcesses(cluster)
        self._workers = [_Worker() for _ in arguments]
        self._signal: signal.Signals | None = None
        self._asked = False

    def run(self) -> None:
        """Run the workers (blocking; in the main thread, because of the signal handlers).

        Raises:
            SystemExit: after a signal, a worker ended with an exit code other than 0; carries that code.
            Usage: a worker ended with exit code 2.
            Stop: a worker keeps dying, or did not end in time.
        """
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, lambda *_: self.show_status())
        try:
            with self._processes:
                while self._signal is None:
                    self._restart_ended(clock.now_s())
                    if self._asked:
                        self._asked = False
                        self._processes.write_line(STATUS)
                    clock.sleep(_POLL_S)
                self._end(self._signal)
        finally:
            for worker in self._workers:
                if worker.reader is not None:
                    worker.reader.join(_POLL_S)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)

    def show_status(self) -> None:
        """Let each worker show its status line, as SIGUSR1 does. May be called from another thread."""
        self._asked = True

    def _restart_ended(self, now_s: float) -> None:
        for number, code in self._processes.ended():
            self._schedule_restart(number, code, now_s)
        for number, worker in enumerate(self._workers):
            if worker.due_s is not None and now_s >= worker.due_s:
                self._start(number, worker, now_s)

    def _start(self, number: int, worker: _Worker, now_s: float) -> None:
        read_end, write_end = os.pipe()
        output = os.fdopen(read_end, errors="replace")
        worker.reader = threading.Thread(target=self._read, args=(number, output), daemon=True)
        worker.reader.start()
        self._processes.start(number, self._app_name, self._arguments[number], os.fdopen(write_end, "wb"))
        worker.started_s, worker.due_s = now_s, None

    def _read(self, number: int, output: IO[str]) -> None:
        with output:
            for line in output:
                line = line.rstrip("\n")
                self._workers[number].lines.append(line)
                self._write(number, line)

    def _schedule_restart(self, number: int, code: int, now_s: float) -> None:
        worker = self._workers[number]
        if worker.reader is not None:
            worker.reader.join(_POLL_S)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        error = _error_in(list(worker.lines))
        if code == Usage.exit_code:
            raise Usage(f"worker {number}: {error}")
        worker.early_deaths = worker.early_deaths + 1 if now_s - worker.started_s < _EARLY_DEATH_S else 1
        if worker.early_deaths >= _MAX_EARLY_DEATHS:
            raise Stop(
                f"worker {number} {how}, the {_MAX_EARLY_DEATHS}th time in a row within {_EARLY_DEATH_S:.0f} s of its "
                f"start{f': {error}' if code >= 0 else ''}"
            )
        pause_s = _RESTART_PAUSE_S * 2 ** (worker.early_deaths - 2) if worker.early_deaths > 1 else 0.0
        worker.due_s = now_s + pause_s
        self._on_restart(number, f"{how}: restarted{f' in {pause_s:.1f} s' if pause_s else ''}")

    def _end(self, received: signal.Signals) -> None:
        failed, killed = self._processes.stop()
        if killed:
            raise Stop(f"worker {killed[0]} did not end within {_END_S:.0f} s of {received.name}, and was killed")
        for code in failed.values():
            raise SystemExit(code if code > 0 else 128 - code)


def _error_in(lines: list[str]) -> str:
    """Return why a worker ended, from its output: the last error with its hint, otherwise the last three lines."""
    for i in range(len(lines) - 1, -1, -1):
        if lines[i].startswith("error: "):
            return "\n".join([lines[i].removeprefix("error: "), *lines[i + 1 : i + 2]])
    return "\n".join(lines[-3:])
