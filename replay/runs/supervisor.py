"""Several workers of one app on one machine, for ever: who dies is started again, signals are passed on.

A worker that dies while it is young is started again later each time, and after `_YOUNG_DEATHS` such deaths in a row
the whole ends with what that worker said: a supervisor above us, or a human, has to look. Exit code 2 of a worker says
that the program or its configuration has to change, so that starting it again is no help.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from ...topics import clock
from ...topics.cluster import Cluster
from ...topics.errors import Stop, Usage
from .worker_pool import last_words
from .worker_processes import Processes

__all__ = ["Supervisor"]

_TURN_S = 0.1
_YOUNG_S = 60.0
_YOUNG_DEATHS = 4
_PAUSE_S = 0.5
_LINES = 50

# A worker gives its agents 30 s to let go of their records, and 10 s to its clients (`agents/worker.py`).
_END_S = 60.0


@dataclass(slots=True)
class _Hand:
    """One of the workers, over all its processes.

    Attributes:
        started_s: monotonic; due_s: when it is to be started again; None while it runs.
        young_deaths: in a row.
        said: its last lines.
    """

    started_s: float = 0.0
    due_s: float | None = 0.0
    young_deaths: int = 0
    said: deque[str] = field(default_factory=lambda: deque[str](maxlen=_LINES))
    reader: threading.Thread | None = None


class Supervisor:
    """Runs workers until SIGTERM or SIGINT.

    Args:
        app_name: as for `-A`.
        arguments: number of a worker -> the arguments of its command.
        write: gets (number, line) of what workers write, from several threads.
        tell: gets (number, text) of what happens to them.
    """

    def __init__(
        self,
        cluster: Cluster,
        app_name: str,
        arguments: Sequence[Sequence[str]],
        *,
        write: Callable[[int, str], None],
        tell: Callable[[int, str], None],
    ) -> None:
        self._app_name, self._arguments = app_name, arguments
        self._write, self._tell = write, tell
        self._processes = Processes(cluster)
        self._hands = [_Hand() for _ in arguments]
        self._told: signal.Signals | None = None

    def run(self) -> None:
        """Run them (blocking; in the main thread, for the signals).

        Raises:
            SystemExit: told to end, and a worker did not end with 0; with its code.
            Stop: a worker cannot live, or one did not end in time.
        """
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with self._processes:
                while self._told is None:
                    self._turn(clock.now_s())
                    clock.sleep(_TURN_S)
                self._end(self._told)
        finally:
            for hand in self._hands:
                if hand.reader is not None:
                    hand.reader.join(_TURN_S)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: Any) -> None:
        self._told = signal.Signals(number)

    def _turn(self, now_s: float) -> None:
        for number, code in self._processes.ended():
            self._died(number, code, now_s)
        for number, hand in enumerate(self._hands):
            if hand.due_s is not None and now_s >= hand.due_s:
                self._start(number, hand, now_s)

    def _start(self, number: int, hand: _Hand, now_s: float) -> None:
        ours, theirs = os.pipe()
        hand.reader = threading.Thread(target=self._read, args=(number, os.fdopen(ours, errors="replace")), daemon=True)
        hand.reader.start()
        self._processes.start(number, self._app_name, self._arguments[number], os.fdopen(theirs, "wb"))
        hand.started_s, hand.due_s = now_s, None

    def _read(self, number: int, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                line = line.rstrip("\n")
                self._hands[number].said.append(line)
                self._write(number, line)

    def _died(self, number: int, code: int, now_s: float) -> None:
        hand = self._hands[number]
        if hand.reader is not None:
            hand.reader.join(_TURN_S)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        words = last_words(list(hand.said))
        if code == Usage.exit_code:
            raise Usage(f"worker {number}: {words}")
        hand.young_deaths = hand.young_deaths + 1 if now_s - hand.started_s < _YOUNG_S else 1
        if hand.young_deaths >= _YOUNG_DEATHS:
            raise Stop(
                f"worker {number} {how}, the {_YOUNG_DEATHS}th time in a row within {_YOUNG_S:.0f} s of its start"
                f"{f': {words}' if code >= 0 else ''}"
            )
        pause_s = _PAUSE_S * 2 ** (hand.young_deaths - 2) if hand.young_deaths > 1 else 0.0
        hand.due_s = now_s + pause_s
        self._tell(number, f"{how}: started again{f' in {pause_s:.1f} s' if pause_s else ''}")

    def _end(self, told: signal.Signals) -> None:
        self._processes.tell()
        codes, killed = self._processes.wait(_END_S)
        if killed:
            raise Stop(f"worker {killed[0]} did not end within {_END_S:.0f} s of {told.name}, and was killed")
        for code in codes.values():
            if code and code != -signal.SIGTERM:  # that is who had not begun to listen to signals
                raise SystemExit(code if code > 0 else 128 - code)
