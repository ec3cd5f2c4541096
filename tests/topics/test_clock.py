"""The clock of the process can be replaced and restored."""

from __future__ import annotations

import threading
import time

import pytest
from anabranch.topics import clock
from anabranch.topics.clock import Clock


class Frozen(Clock):
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 50.0

    def now_s(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return int(self.now * 1000)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, stop: threading.Event, seconds: float) -> None:
        self.now += 0 if stop.is_set() else seconds


def test_it_is_the_machines() -> None:
    assert clock.now_s is time.monotonic, "a call must not cost more"
    assert abs(clock.now_ms() - time.time() * 1000) < 1000
    machine = clock.current()
    assert type(machine) is Clock
    assert machine.now_s() <= time.monotonic()
    stop = threading.Event()
    clock.wait(stop, 0.001)
    machine.wait(stop, 0.001)
    clock.sleep(0)
    machine.sleep(0)


def test_another_one_is_used_inside_of_the_block_by_every_thread() -> None:
    frozen, seen = Frozen(), list[float]()
    with clock.use(frozen):
        clock.sleep(3600)
        clock.wait(threading.Event(), 60)
        thread = threading.Thread(target=lambda: seen.append(clock.now_s()))
        thread.start()
        thread.join()
        assert clock.current() is frozen
        assert clock.now_ms() == 3_710_000
    assert seen == [3710.0]
    assert clock.now_s is time.monotonic


def test_the_one_before_is_put_back_after_an_error() -> None:
    outer = Frozen()
    with clock.use(outer):
        with pytest.raises(ZeroDivisionError), clock.use(Frozen()):
            _ = 1 / 0
        assert clock.current() is outer
    assert type(clock.current()) is Clock
