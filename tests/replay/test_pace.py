"""Records are sent when they are due. The time is an argument, so the tests do not wait."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from anabranch.replay.pipeline.pace import TICK_S, Pace, PacedSource
from anabranch.replay.pipeline.repeat import LoopedSource
from anabranch.replay.sources.source import Source, SourceBatch, SourcePosition
from anabranch.replay.sources.source_record import SourceRecord
from anabranch.topics.clock import Clock
from anabranch.topics.errors import Usage


@dataclass
class Listed:
    """Records of given seconds, four a batch."""

    seconds: list[float]
    at: int = 0
    poll_again_s: float = 0.0
    done_bytes: int = 0

    @property
    def ended(self) -> bool:
        return self.at >= len(self.seconds)

    @property
    def begins(self) -> SourcePosition:
        return {"at": self.at}

    def next_batch(self) -> SourceBatch:
        begin, self.at = self.at, min(self.at + 4, len(self.seconds))
        items: list[SourceRecord] = [
            (None, str(n).encode(), round(1e6 + self.seconds[n] * 1000), None, None) for n in range(begin, self.at)
        ]
        return SourceBatch(items, {"at": self.at})

    def close(self) -> None:
        pass


class Hand(Clock):
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def now_s(self) -> float:
        return self.now

    def wait(self, stop: threading.Event, seconds: float) -> None:
        self.now += seconds


def opening(seconds: Iterable[float]):
    listed = list(seconds)

    def open_at(position: SourcePosition | None) -> Source:
        return Listed(listed, position["at"] if position else 0)

    return open_at


def played(source: PacedSource, clock: Hand, count: int | None = None) -> list[tuple[int, float]]:
    """Which record went when, in seconds since now."""
    begun, found, stop = clock.now, list[tuple[int, float]](), threading.Event()
    while not source.ended and (count is None or len(found) < count):
        items = source.next_batch().records
        found += [(int(item[1] or b""), clock.now - begun) for item in items]
        if not items:
            clock.wait(stop, source.poll_again_s)
    return found


def test_a_minute_of_event_time_takes_a_second_at_60x() -> None:
    seconds = [0, 60, 61, 120, 90, 600, 600, 1200]  # one of them is late
    clock = Hand()
    went = played(PacedSource(opening(seconds), Pace(speed=60), clock), clock)
    assert [n for n, _ in went] == list(range(8))
    for (_, at), due in zip(went, [0, 1, 61 / 60, 2, 2, 10, 10, 20], strict=True):
        assert due <= at + 1e-9
        assert at <= due + 2 * TICK_S


def test_a_rate_is_kept_and_never_exceeded() -> None:
    clock = Hand()
    went = played(PacedSource(opening([0.0] * 1000), Pace(rate=50), clock), clock)
    assert len(went) == 1000
    for sent, (_, at) in enumerate(went, 1):
        assert sent <= 50 * at + 1e-6
    assert went[-1][1] == pytest.approx(20, abs=3 * TICK_S)


def test_both_hold_where_both_are_asked() -> None:
    clock = Hand()
    went = played(PacedSource(opening([0.0] * 40 + [100.0]), Pace(rate=10, speed=10), clock), clock)
    assert went[39][1] == pytest.approx(4, abs=3 * TICK_S)
    assert went[40][1] == pytest.approx(10, abs=3 * TICK_S)


def test_a_stop_for_a_night_is_not_made_up_for() -> None:
    #   event time:  0 ... 19 │ 20 ... 39        the pause is not part of the pace
    clock = Hand()
    seconds = [float(n) for n in range(40)]
    for pace in (Pace(speed=1), Pace(rate=1)):
        first = PacedSource(opening(seconds), pace, clock)
        assert len(played(first, clock, 20)) == 20
        clock.now += 1.5
        last = first.next_batch()
        assert len(last.records) == 1
        clock.now += 40_000
        went = played(PacedSource(opening(seconds), pace, clock, last.after), clock)
        assert [n for n, _ in went] == list(range(21, 40))
        assert went[-1][1] == pytest.approx(18.5, abs=0.5 + 3 * TICK_S)


def test_what_a_slow_broker_cost_is_made_up_for_by_speed_and_only_a_second_of_it_by_rate() -> None:
    clock = Hand()
    seconds = [float(n) for n in range(100)]
    by_speed = PacedSource(opening(seconds), Pace(speed=1), clock)
    played(by_speed, clock, 10)
    clock.now += 30
    by_speed.next_batch()
    by_speed.next_batch()
    assert 20 < by_speed.lag_s < 35
    went = played(by_speed, clock)
    assert went[-1][1] == pytest.approx(60, abs=3)
    assert by_speed.lag_s == 0

    by_rate = PacedSource(opening([0.0] * 1000), Pace(rate=10), clock)
    played(by_rate, clock, 10)
    clock.now += 30
    went = played(by_rate, clock)
    assert sum(at < TICK_S for _, at in went) <= 11
    assert went[-1][1] == pytest.approx(98, abs=3)


def test_each_round_of_a_loop_begins_the_pace_again() -> None:
    clock, loops = Hand(), list[LoopedSource]()

    def open_at(position: SourcePosition | None) -> Source:
        loops.append(LoopedSource(opening([0.0, 5.0]), 3, position))
        return loops[-1]

    went = played(PacedSource(open_at, Pace(speed=1), clock, round_of=lambda: loops[-1].round), clock)
    assert [n for n, _ in went] == [0, 1] * 3
    assert [round(at / 5) for _, at in went] == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(("speed", "rate"), [("0x", None), ("fast", None), (None, "5000/d"), (None, "0"), (None, "-1")])
def test_a_pace_that_is_none_is_refused(speed: str | None, rate: str | None) -> None:
    with pytest.raises(Usage, match="expected"):
        Pace.parse(speed, rate)
