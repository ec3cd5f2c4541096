"""The process that owns a broker in the background: `python -m anabranch.topics.devbroker.guardian DATA IDLE_S PORT`.

It starts the broker, writes to standard output how that goes (lines of JSON, see `background.start`), and ends it

- when no command holds a lease and no client has been connected for `IDLE_S` seconds,
- on SIGTERM,
- when the data folder is deleted.

It ends as well when Java does; the next command starts both again. Its log is `background.log` in the data folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from .. import clock
from ..errors import Stop
from .broker import EmbeddedBroker, Occupied
from .lease import Lease
from .running_broker import RunningBroker, last_port

__all__ = ["main"]

_PORT = 9092
_POLL_S = 2.0


def main(data: Path, idle_s: float, port: int) -> int:
    """Run a broker until nobody uses it (blocking); return the exit code."""
    ended = threading.Event()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    broker = EmbeddedBroker(
        data,
        port=port or last_port(data) or _PORT,
        other_port=port == 0,
        background=True,
        on_progress=lambda text: _say(progress=text),
    )
    try:
        stats = broker.start()
    except Occupied:
        _say(occupied=True)
        return 0
    except Stop as exc:
        _note(f"not started: {exc}")
        _say(error=exc.args[0], hint=exc.hint)
        return 1
    _note(f"Kafka {broker.running.kafka} started at {stats.bootstrap_servers}, pid {stats.pid}")
    _say(
        ready={
            "bootstrap_servers": stats.bootstrap_servers,
            "startup_s": stats.startup_s,
            "pid": stats.pid,
            "download_s": stats.download_s,
        }
    )
    # The command that waits reads to the end, and this process must keep no folder in use.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.chdir("/")
    why, code = _watch(broker, ended, idle_s)
    if not broker.has_folder:
        broker.kill()  # there is nothing to keep
    broker.stop()
    _note(f"ended: {why}")
    return code


def _watch(broker: EmbeddedBroker, ended: threading.Event, idle_s: float) -> tuple[str, int]:
    """Wait until the broker is to end; return the reason and the exit code."""
    running, used_s = broker.running, clock.now_s()
    while not ended.wait(min(_POLL_S, idle_s / 4)):
        if not broker.has_folder:
            return "the data folder is gone", 0
        if not broker.alive:
            return f"Java has ended; see {running.data / 'broker.log'}", 1
        if _is_used(running):
            used_s = clock.now_s()
        # A command that takes a lease from here on waits, so it does not get a broker that ends.
        elif clock.now_s() - used_s >= idle_s and (_hold := Lease.exclude(running.data)) is not None:
            return f"nobody has used it for {idle_s:.0f} s", 0
    return "stopped by a signal", 0


def _is_used(running: RunningBroker) -> bool:
    return Lease.is_held(running.data) or bool(running.clients())


def _say(**what: object) -> None:
    try:
        os.write(1, json.dumps(what).encode() + b"\n")
    except OSError:  # the command that waited has been killed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _note(text: str) -> None:
    time = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
    sys.stderr.write(f"{time:%Y-%m-%d %H:%M:%S}Z {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
