"""The embedded broker: real Apache Kafka (KRaft, one node) as a child process.

Promise: the broker that `start()` returns answers Kafka's protocol on loopback, and Java ends when this process ends,
whatever ends it. A data folder never has two brokers; a folder that is kept carries topics, offsets and transactions to
the next start. Not promised: the properties of a cluster. No replicas, no TLS, no fsync per record: not for production.

    <data>/
        lock                held by this process and inherited by Java, so it is free only when both have ended
        lease               locked by the commands that use a broker in the background; see `lease`
        broker.json         processes and address while a broker runs; see `running_broker`
        background.log      starts and ends of brokers in the background; see `guardian`
        server.properties   rewritten at each start, because ports may change
        log4j2.xml
        broker.log          the output of Java; broker.log.1 is that of the previous start
        log/                Kafka's own
        tmp/
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from .. import clock
from ..cleanup import on_failure
from ..errors import Stop
from .distribution import KAFKA_VERSION, Distribution, OnProgress
from .java import Java
from .kraft_node import Node, aot_flags, rehearse_once, user_flags
from .lease import folder_for_data
from .running_broker import RunningBroker, running_at

__all__ = ["BrokerStats", "EmbeddedBroker", "Occupied", "memory_bytes"]

STOP_S = 15.0

# A command that checks for a running broker holds the lock for an instant; a start must not fail because of it.
_LOCK_S = 1.0
_PORT_ATTEMPTS = 3
_TEMPORARY = "anabranch-broker-"
_ABANDONED_S = 60.0


class Occupied(Stop):
    """Another broker has the data folder: it runs, starts or stops."""


@dataclass(frozen=True, slots=True)
class BrokerStats:
    """The result of a start.

    Attributes:
        bootstrap_servers: `127.0.0.1:port`.
        startup_s: seconds from the call until the broker answered, without `download_s`.
        download_s: seconds spent on the work of a first start; 0 later.
    """

    bootstrap_servers: str
    startup_s: float
    pid: int
    data: Path
    download_s: float

    def rss_bytes(self) -> int:
        """Return the resident memory of the broker now; 0 if it has ended."""
        return memory_bytes(self.pid)

    def peak_rss_bytes(self) -> int:
        """Return the largest resident memory so far; 0 if it has ended."""
        return memory_bytes(self.pid, "VmHWM")


class EmbeddedBroker:
    """A Kafka broker that runs between `start()` and `stop()`; a context manager.

    Both may be called from any thread, and repeatedly: the port, and the data folder if one was given, stay the same.

    Args:
        data: folder for the records; None for a temporary one that `stop()` deletes. Kafka flushes when it likes, so a
            power cut can lose the newest records; the death of the process cannot.
        port: TCP port for clients; 0 for a free one.
        other_port: take a free port if `port` is taken, instead of failing.
        background: note in `broker.json` that it ends when it is not used; see `guardian`.
        heap_mb: Java's maximum heap in MiB; with 512, resident memory is about 200 MiB idle and 270 MiB under load.
        settings: broker configuration under Kafka's names; wins over the defaults.
        on_progress: called with the progress of a first start, one line at a time.
    """

    def __init__(
        self,
        data: Path | None = None,
        *,
        port: int = 0,
        other_port: bool = False,
        background: bool = False,
        heap_mb: int = 512,
        settings: Mapping[str, str] | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._keep = data
        self._port = port
        self._any_port = port == 0 or other_port
        self._background = background
        self._heap_mb = heap_mb
        self._settings = dict(settings or {})
        self._on_progress = on_progress
        self._data = Path()
        self._lock = -1
        self._java: Java | None = None
        self._stats: BrokerStats | None = None
        self._running: RunningBroker | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The bootstrap servers for clients; requires `start()`."""
        return self.stats.bootstrap_servers

    @property
    def stats(self) -> BrokerStats:
        """The result of the last start; requires `start()`."""
        assert self._stats is not None, "start() first"
        return self._stats

    @property
    def running(self) -> RunningBroker:
        """The facts of this broker in `broker.json`, which other processes read; requires `start()`."""
        assert self._running is not None, "start() first"
        return self._running

    @property
    def has_folder(self) -> bool:
        """True while the data folder is in its place: not deleted, and not created anew by others."""
        try:
            return os.fstat(self._lock).st_ino == (self._data / "lock").stat().st_ino
        except OSError:
            return False

    @property
    def alive(self) -> bool:
        """Return whether Java runs."""
        return self._java is not None and self._java.alive

    def start(self) -> BrokerStats:
        """Start the broker and wait until it answers (blocking, at most a minute besides a download).

        Raises:
            Occupied: the data folder is in use.
            Stop: Kafka cannot be downloaded; the data folder belongs to another Kafka; Java ended or does not answer
                (with the last lines of its log).
        """
        assert not self.alive, "already started"
        self.stop()  # Java may have died: clean up after it first
        kafka = Distribution.get(self._on_progress)
        rehearsal_s = rehearse_once(kafka, self._on_progress)
        begun = clock.now_s()
        self._open_data()
        # On failure a temporary folder stays, because the error names its log. A later start removes it.
        with on_failure(self._close_data), on_failure(partial(self._end_java, 0.0)):
            node = self._launch_on_a_free_port(kafka)
            self._running = RunningBroker(
                data=self._data,
                servers=node.servers,
                pid=node.java.pid,
                owner=os.getpid(),
                background=self._background,
                kafka=KAFKA_VERSION,
                started_ms=clock.now_ms(),
                folder=os.fstat(self._lock).st_ino,
            )
            self._running.write()
        atexit.register(self.stop)
        # The next start of this object uses the same address, as clients expect of a broker.
        self._port = node.port
        first_s = kafka.download_s + rehearsal_s
        self._stats = BrokerStats(node.servers, clock.now_s() - begun, node.java.pid, self._data, first_s)
        return self._stats

    def stop(self) -> None:
        """Stop the broker (blocking, at most `STOP_S`) and delete a temporary folder. Does nothing if it is stopped."""
        if self._java is None:
            return
        atexit.unregister(self.stop)
        # First, so that no command connects to a broker that is about to end.
        if self.has_folder:
            RunningBroker.remove(self._data)
        # A temporary folder is not read again, so it needs no clean shutdown.
        self._end_java(STOP_S if self._keep is not None else 0.0)
        if self._keep is None:
            shutil.rmtree(self._data, ignore_errors=True)
        self._close_data()

    def kill(self) -> None:
        """End Java with SIGKILL, as in a crash; `start()` recovers from it. For fault tests."""
        if self._java is not None:
            self._java.end(0.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, kafka: Distribution) -> Node:
        node = Node(
            kafka,
            self._data,
            port=self._port,
            heap_mb=self._heap_mb,
            settings=self._settings,
            flags=[*aot_flags(kafka), *user_flags()],
            lock=self._lock,
        )
        self._java = node.java
        node.await_ready()
        return node

    def _launch_on_a_free_port(self, kafka: Distribution) -> Node:
        for _ in range(_PORT_ATTEMPTS - 1):
            try:
                return self._launch(kafka)
            except Stop as exc:
                # Another process has the port of an earlier start, or took the free port before Java could.
                if not self._any_port or "Address already in use" not in str(exc):
                    raise
                self._port = 0
        return self._launch(kafka)

    def _end_java(self, patience_s: float) -> None:
        if self._java is not None:
            self._java.end(patience_s)
            self._java = None

    def _open_data(self) -> None:
        if self._keep is None:
            _sweep_abandoned()
            self._data = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
        else:
            self._data = self._keep.absolute()
            folder_for_data(self._data)
        self._lock = _lock(self._data)
        # With the lock held, a file with an address belongs to a broker that has ended.
        RunningBroker.remove(self._data)

    def _close_data(self) -> None:
        if self._lock >= 0:
            # Unlocked, not only closed: a child that was forked meanwhile may hold a copy of the descriptor.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            os.close(self._lock)
            self._lock = -1


def _lock(data: Path) -> int:
    """Return a descriptor that holds the lock of `data`."""
    lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = clock.now_s() + _LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if clock.now_s() > deadline:
                os.close(lock)
                running = running_at(data)
                if running is None:
                    raise Occupied(
                        f"{data} is in use by another broker that starts or stops",
                        hint="try again, or name another folder",
                    ) from None
                raise Occupied(
                    f"{data} is in use by another broker at {running.servers}",
                    hint=f"commands in this folder and --bootstrap-server {running.servers} use it; anabranch broker "
                    "stop ends it",
                ) from None
            clock.sleep(0.02)


def _sweep_abandoned() -> None:
    """Remove temporary folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError), (folder / "lock").open() as lock:
            # A new folder may not be locked yet.
            if clock.now_ms() / 1000 - folder.stat().st_mtime > _ABANDONED_S:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def memory_bytes(pid: int, name: str = "VmRSS") -> int:
    """Return the resident memory of a process, or another of Linux's figures; 0 if the process has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
