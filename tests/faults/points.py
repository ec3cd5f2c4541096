"""Where a worker can be made to die or to freeze: the named points of a commit. Loaded by the bank, in the worker.

Nothing in production knows of this: methods are wrapped here, from outside. `FAULT_AT=<point>:<nth>:<signal>` raises
the signal in the worker itself when it reaches the point for the nth time.

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
from anabranch.agents.tables.table import Table
from anabranch.topics import client_watchdog, producer
from anabranch.topics.producer import TransactionalProducer

__all__ = ["DISK_FULL", "POINTS", "install"]

POINTS = ("begun", "produced", "with_offsets", "amid_commit", "committed", "amid_store", "half_stored", "stored")

# Not a point: from the start no file of the worker may be larger than so many KiB; the kernel refuses as it does where
# a disk is full, and needs no disk and no root for it.
DISK_FULL = "disk_full"

# As an operator would have it who wants dead workers' transactions out of the way soon; rounds are short.
TRANSACTION_TIMEOUT_MS = 3_000
HUNG_S = 6.0

# A commit on an idle machine takes some 5 ms, a store's write less than one.
_AMID_S = 0.002
_AMID_STORE_S = 0.0002


def install() -> None:
    """Shorten the transactions' timeout; arm the point that the environment names."""
    producer.TRANSACTION_TIMEOUT_MS = TRANSACTION_TIMEOUT_MS
    client_watchdog.HUNG_S = HUNG_S
    signal.signal(signal.SIGUSR1, _show_tasks)
    faulthandler.register(signal.SIGUSR1, chain=True)  # where a worker that does not get on stands, for its log
    if "FAULT_AT" in os.environ:
        point, nth, name = os.environ["FAULT_AT"].split(":")
        if point == DISK_FULL:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(nth) * 1024, resource.RLIM_INFINITY))
            return
        _Trap(int(nth), signal.Signals[name]).arm(point)


def _show_tasks(*_: Any) -> None:
    """What each task waits for, down to the innermost coroutine."""
    with contextlib.suppress(RuntimeError):  # no loop runs
        for task in asyncio.all_tasks():
            inner: Any = task.get_coro()
            while frame := getattr(inner, "cr_frame", None) or getattr(inner, "ag_frame", None):
                where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                print("  waits:", where, file=sys.stderr, end=" ")
                inner = getattr(inner, "cr_await", None) or getattr(inner, "ag_await", None)
            print(f"{inner!r:.200}", file=sys.stderr, flush=True)


class _Trap:
    """Counts down to the signal."""

    def __init__(self, nth: int, number: signal.Signals) -> None:
        self._left, self._signal = nth, number

    def step(self) -> bool:
        self._left -= 1
        return self._left == 0

    def spring(self) -> None:
        os.kill(os.getpid(), self._signal)

    def pass_by(self) -> None:
        if self.step():
            self.spring()

    def arm(self, point: str) -> None:
        match point:
            case "begun":
                _after(TransactionalProducer, "begin", self.pass_by)
            case "produced":
                _before(TransactionalProducer, "send_offsets", self._delivered)
            case "with_offsets":
                _after(TransactionalProducer, "send_offsets", self.pass_by)
            case "amid_commit":
                _before(TransactionalProducer, "commit", self._soon)
            case "committed":
                _after(TransactionalProducer, "commit", self.pass_by)
            case "amid_store":
                _before(PartitionState, "apply", self._soon)
            case "half_stored":
                _after(Table, "epoch_committed", self.pass_by)
            case "stored":
                _after(Epoch, "finish", self.pass_by)
            case _:
                raise ValueError(point)

    def _delivered(self, kafka: Any) -> None:
        if self.step():
            kafka.flush()  # what is produced shall be on the broker, not in a queue that dies with us
            self.spring()

    def _soon(self, what: Any) -> None:
        if self.step():
            after_s = _AMID_STORE_S if isinstance(what, PartitionState) else _AMID_S
            threading.Timer(after_s, self.spring).start()


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
