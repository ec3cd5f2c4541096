"""A broker in the background: one for each data folder, shared by all commands, started by the first one.

    command ── lease ── finds it, or starts its guardian and waits ──── works ──── releases the lease
                                          │
    guardian (`guardian.py`) ── Java ── ready ── ends Java, and itself, when nobody has used it for `IDLE_S`

The guardian is a session of its own: neither Ctrl-C nor the end of a terminal reaches it. Java ends with the guardian.
The port stays the same for a folder, as long as no other process takes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import clock
from ..errors import Stop
from ..threads import Background
from .broker import BrokerStats, Occupied
from .distribution import OnProgress
from .lease import Lease, folder_for_data
from .running_broker import RunningBroker, is_occupied, running_at

__all__ = ["IDLE_S", "LOG", "provide", "start", "stop"]

IDLE_S = 300.0
LOG = "background.log"

# Starting a broker takes a minute at most, stopping one a quarter of a minute.
_WAIT_S = 90.0
_AGAIN_S = 0.05
_STOP_S = 20.0
_LOG_TAIL_LINES = 5

# Guardians that this process has started and that outlive it. Without a reference Python warns about them.
_guardians: list[subprocess.Popen[bytes]] = []


@contextmanager
def provide(
    data: Path,
    *,
    on_progress: OnProgress | None = None,
    on_lost: Callable[[RunningBroker], object] | None = None,
    idle_s: float = IDLE_S,
) -> Generator[tuple[RunningBroker, BrokerStats | None]]:
    """Provide the broker of a folder inside a `with` block; starts it if it does not run.

    Args:
        on_progress: called with the progress of a first start, one line at a time.
        on_lost: called from a thread if the broker ends before the block does.
        idle_s: time without use after which a broker that this call starts ends itself.

    Yields:
        The broker, and the figures of its start if this call has started it.

    Raises:
        Stop: it cannot be started.
    """
    with Lease.take(data):
        running, stats = _find_or_start(data, on_progress, idle_s)
        over: list[bool] = []
        if on_lost is not None:
            _watch(running, on_lost, over)
        try:
            yield running, stats
        finally:
            over.append(True)


def start(
    data: Path, *, port: int = 0, on_progress: OnProgress | None = None, idle_s: float = IDLE_S
) -> BrokerStats | None:
    """Start the guardian of a folder's broker, and wait until the broker answers (blocking).

    Args:
        port: its port; 0 for the one that it had, 9092 or another one.

    Returns:
        The figures of the start; None if another process has started one meanwhile.

    Raises:
        Stop: the broker cannot be started.
    """
    folder_for_data(data)
    command = [sys.executable, "-P", "-m", f"{__package__}.guardian", str(data), str(idle_s), str(port)]
    try:
        with (data / LOG).open("ab") as log:
            guardian = subprocess.Popen(  # noqa: S603 our own interpreter
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
    except OSError as exc:
        raise Stop(f"the embedded Kafka cannot be started: {exc}", hint="check the folder and its disk") from exc
    assert guardian.stdout is not None
    with guardian.stdout as lines:
        for line in lines:
            said: dict[str, Any] = json.loads(line)
            if "progress" in said and on_progress is not None:
                on_progress(said["progress"])
            if "ready" in said:
                _guardians.append(guardian)
                return BrokerStats(data=data, **said["ready"])
            if "occupied" in said:
                guardian.wait()
                return None
            if "error" in said:
                guardian.wait()
                raise Stop(said["error"], hint=said["hint"])
    code = guardian.wait()
    raise Stop(
        f"the embedded Kafka's guardian ended with {code}; {data / LOG} ends with\n{_tail(data / LOG)}",
        hint="--bootstrap-server uses a Kafka that already runs",
    )


def stop(running: RunningBroker) -> None:
    """End a broker and its parent (blocking, at most 20 s), whoever uses it.

    Raises:
        Stop: they belong to another user.
    """
    try:
        os.kill(running.owner, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError as exc:
        raise Stop(f"process {running.owner} belongs to another user", hint="that user can end it") from exc
    deadline_s = clock.now_s() + _STOP_S
    while is_occupied(running.data):
        if clock.now_s() > deadline_s:
            for pid in (running.owner, running.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return
        clock.sleep(_AGAIN_S)


def _find_or_start(
    data: Path, on_progress: OnProgress | None, idle_s: float
) -> tuple[RunningBroker, BrokerStats | None]:
    deadline_s = clock.now_s() + _WAIT_S
    stats: BrokerStats | None = None
    while True:
        if (running := running_at(data)) is not None:
            return running, stats
        if not is_occupied(data):
            stats = start(data, on_progress=on_progress, idle_s=idle_s)
        elif clock.now_s() > deadline_s:
            raise Occupied(
                f"another process starts or stops a broker in {data}", hint="try again, or name another folder"
            )
        else:
            clock.sleep(_AGAIN_S)


def _watch(running: RunningBroker, on_lost: Callable[[RunningBroker], object], over: list[bool]) -> None:
    """Wait in a thread for the broker's end: for the lock that it and Java hold."""

    def steps() -> Generator[float]:
        with contextlib.suppress(OSError), (running.data / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            fcntl.flock(lock, fcntl.LOCK_UN)
            if not over:
                on_lost(running)
        yield 0.0

    Background(steps, "anabranch-broker-watch")


def _tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
    return ""
