"""Named points of a commit at which a worker kills or freezes itself. The bank installs them in the worker.

The engine's methods are wrapped from outside. With `FAULT_AT=<point>:<nth>:<signal>` a worker raises the signal in
itself when it reaches the point for the nth time.

    begin ─▶ produce ─▶ offsets ─▶ commit ─▶ stores: one table ─▶ the next ─▶ new epoch
         │          │          │  │       │                   │            │
      begun    produced  with_offsets   committed        half_stored     stored
                                  └ amid_commit     └ amid_store
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anabranch.agents.engine.epoch import Epoch
from anabranch.agents.tables.partition_state import PartitionState
from anabranch.agents.tables.uncommitted_writes import UncommittedWrites
from anabranch.topics import client_watchdog, producer
from anabranch.topics.producer import TransactionalProducer

__all__ = ["DISK_FULL", "POINTS", "install"]

POINTS = ("begun", "produced", "with_offsets", "amid_commit", "committed", "amid_store", "half_stored", "stored")

# Not a point: no file of the worker may be larger than `nth` KiB. The kernel then refuses writes as on a full disk.
DISK_FULL = "disk_full"

# Short, because a round is short and the transactions of dead workers block readers until they time out.
TRANSACTION_TIMEOUT_MS = 3_000
HUNG_S = 6.0

# On an idle machine a commit takes about 5 ms, and a write to a store less than one.
_AMID_S = 0.002
_AMID_STORE_S = 0.0002


def install() -> None:
    """Shorten the timeout of transactions, and arm the point that `FAULT_AT` names."""
    producer.TRANSACTION_TIMEOUT_MS = TRANSACTION_TIMEOUT_MS
    client_watchdog.HUNG_S = HUNG_S
    signal.signal(signal.SIGUSR2, _show_tasks)
    faulthandler.register(signal.SIGUSR2, chain=True)  # stacks for the log, if a worker makes no progress
    if "FAULT_AT" in os.environ:
        point, nth, name = os.environ["FAULT_AT"].split(":")
        if point == DISK_FULL:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(nth) * 1024, resource.RLIM_INFINITY))
            return
        _Trigger(int(nth), signal.Signals[name]).arm(point)


def _show_tasks(*_: Any) -> None:
    """Print the place at which each task waits, down to the innermost coroutine."""
    with contextlib.suppress(RuntimeError):  # no loop runs
        for task in asyncio.all_tasks():
            inner: Any = task.get_coro()
            while frame := getattr(inner, "cr_frame", None) or getattr(inner, "ag_frame", None):
                place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                print("  waits:", place, file=sys.stderr, end=" ")
                inner = getattr(inner, "cr_await", None) or getattr(inner, "ag_await", None)
            print(f"{inner!r:.200}", file=sys.stderr, flush=True)


class _Trigger:
    """Raises a signal when a point is reached for the nth time."""

    def __init__(self, nth: int, number: signal.Signals) -> None:
        self._left, self._signal = nth, number

    def count_down(self) -> bool:
        self._left -= 1
        return self._left == 0

    def fire(self) -> None:
        os.kill(os.getpid(), self._signal)

    def reached(self) -> None:
        if self.count_down():
            self.fire()

    def arm(self, point: str) -> None:
        match point:
            case "begun":
                _after(TransactionalProducer, "begin", self.reached)
            case "produced":
                _before(TransactionalProducer, "send_offsets", self._fire_when_flushed)
            case "with_offsets":
                _after(TransactionalProducer, "send_offsets", self.reached)
            case "amid_commit":
                _before(TransactionalProducer, "commit", self._fire_soon)
            case "committed":
                _after(TransactionalProducer, "commit", self.reached)
            case "amid_store":
                _before(PartitionState, "apply", self._fire_soon)
            case "half_stored":
                _after(UncommittedWrites, "epoch_committed", self.reached)
            case "stored":
                _after(Epoch, "finish", self.reached)
            case _:
                raise ValueError(point)

    def _fire_when_flushed(self, kafka: Any) -> None:
        if self.count_down():
            kafka.flush()  # so that the records are on the broker
            self.fire()

    def _fire_soon(self, target: Any) -> None:
        if self.count_down():
            after_s = _AMID_STORE_S if isinstance(target, PartitionState) else _AMID_S
            threading.Timer(after_s, self.fire).start()


def _before(owner: type, name: str, do: Callable[[Any], None]) -> None:
    wrapped = getattr(owner, name)

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        do(self)
        return wrapped(self, *args, **kwargs)

    setattr(owner, name, wrapper)


def _after(owner: type, name: str, do: Callable[[], None]) -> None:
    wrapped = getattr(owner, name)

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = wrapped(self, *args, **kwargs)
        do()
        return result

    setattr(owner, name, wrapper)
