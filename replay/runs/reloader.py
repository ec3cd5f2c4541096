"""A worker that is restarted when its program changes: `worker --reload`.

The worker is a process of its own. It is stopped with SIGTERM, so that it finishes its records, commits and leaves the
group, and started again with the new program: exactly once, as with any restart. A worker that ends by itself, for
example because the program has an error now, is started again with the next change.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from watchfiles import PythonFilter, watch

from ...topics import clock
from ...topics.cluster import Cluster
from ...topics.errors import Stop
from ..cluster_choice import home
from ..module_loader import folder_of
from ..project_config import FILES
from .worker_pool import STATUS, WorkerProcesses

__all__ = ["Reloader"]

_POLL_S = 0.1
_NUMBER = 0


class Reloader:
    """Runs one worker until SIGTERM or SIGINT, and restarts it when a file of the program changes.

    Args:
        app_name: the app, as for the command line's `-A`.
        arguments: options of the worker's command.
        say: called with a sentence when something happens.
    """

    def __init__(
        self, cluster: Cluster, app_name: str, arguments: Sequence[str], *, say: Callable[[str], object]
    ) -> None:
        self._app_name, self._arguments, self._say = app_name, arguments, say
        self._processes = WorkerProcesses(cluster)
        self._changed: set[Path] = set()
        self._watching = threading.Event()  # set to end the thread
        self._problem: Exception | None = None
        self._signal: signal.Signals | None = None
        self._asked = False

    def run(self) -> None:
        """Run the worker (blocking; in the main thread, because of the signal handlers).

        Raises:
            SystemExit: after a signal, the worker ended with an exit code other than 0; carries that code.
            Stop: files cannot be watched, or the worker did not end in time.
        """
        folders = {Path.cwd(), folder_of(self._app_name)}
        thread = threading.Thread(target=self._watch, args=(folders,), name="anabranch-reload", daemon=True)
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, lambda *_: self.show_status())
        try:
            with self._processes:
                thread.start()
                self._start()
                while self._signal is None:
                    self._look()
                    if self._asked:
                        self._asked = False
                        self._processes.write_line(STATUS)
                    clock.sleep(_POLL_S)
                self._stop()
        finally:
            self._watching.set()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)

    def show_status(self) -> None:
        """Let the worker show its status line, as SIGUSR1 does. May be called from another thread."""
        self._asked = True

    def _look(self) -> None:
        if self._problem is not None:
            raise Stop(f"--reload cannot watch files: {self._problem}", hint="start the worker without --reload")
        for _, code in self._processes.ended():
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            self._say(f"the worker {how}; it starts again when a file changes")
        if self._changed:
            changed, self._changed = self._changed, set()
            names = sorted(os.path.relpath(path) for path in changed)
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            self._say(f"{names[0]}{more} changed: the worker is restarted")
            self._stop(quietly=True)
            self._start()

    def _start(self) -> None:
        self._processes.start(_NUMBER, self._app_name, self._arguments, os.fdopen(os.dup(sys.stderr.fileno()), "wb"))

    def _stop(self, *, quietly: bool = False) -> None:
        failed, killed = self._processes.stop()
        if killed:
            raise Stop("the worker did not end after SIGTERM, and was killed")
        for code in failed.values():
            if not quietly:
                raise SystemExit(code if code > 0 else 128 - code)

    def _watch(self, folders: set[Path]) -> None:
        wanted = PythonFilter(ignore_paths=[home()], extra_extensions=[f"/{name}" for name in FILES])
        try:
            for changes in watch(*folders, watch_filter=wanted, stop_event=self._watching, raise_interrupt=False):
                self._changed |= {Path(path) for _, path in changes}
        except (OSError, RuntimeError) as exc:  # such as the system's limit of watched files
            self._problem = exc
