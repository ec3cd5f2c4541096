"""Java as a child process that does not outlive this process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from ..errors import Stop
from .distribution import java_environment

__all__ = ["Java"]

_LOG_TAIL_LINES = 15

# Sends SIGTERM to Java when its parent dies, then becomes Java. A program of its own and not a `preexec_fn`, because
# Python code between fork and exec may hang in a process with threads, and librdkafka has many. The parent may be gone
# before the request is made, and then no signal would be sent.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class Java:
    """One Java process. Its output goes to `log`, and the folder of `log` is its working directory.

    Linux sends the parent-death signal when the *thread* that started the child ends, not the process. So a
    separate thread starts Java and waits for its end, and callers may use any thread.

    Args:
        lock: a descriptor that Java holds open as well, so that a lock on it ends with the later of the two; -1: none.

    Raises:
        Stop: it cannot be executed.
    """

    def __init__(self, command: Sequence[str], *, log: Path, lock: int = -1) -> None:
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._error: OSError | None = None
        started = threading.Event()
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]
        keep = threading.Thread(target=self._keep, args=(launcher, lock, started), name="anabranch-java", daemon=True)
        keep.start()
        started.wait()
        if self._error is not None:
            raise Stop(f"Java does not start: {self._error}", hint="is the disk full?") from self._error

    def _keep(self, command: list[str], lock: int, started: threading.Event) -> None:
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(  # noqa: S603 our own Java
                    command,
                    cwd=self.log.parent,
                    env=java_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lock,) if lock >= 0 else (),
                    # Ctrl-C in a terminal must not reach Java, which is stopped after the last commit.
                    start_new_session=True,
                )
        except OSError as exc:
            self._error = exc
            return
        finally:
            started.set()
        self._process.wait()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.poll()

    def end(self, patience_s: float) -> int:
        """Send SIGTERM, wait `patience_s` seconds (0: send none), then send SIGKILL; return the exit code."""
        process = self._process
        assert process is not None
        if patience_s > 0:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
        process.kill()
        return process.wait()

    def log_tail(self) -> str:
        """Return the last lines of the output."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
        return ""
