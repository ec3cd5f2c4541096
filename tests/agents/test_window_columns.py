"""Windows by column: what a packed batch comes to by column is what it comes to row by row, late rows included."""

from __future__ import annotations

import os
from collections import Counter
from copy import copy, deepcopy
from operator import itemgetter
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from anabranch import App, Count, Cumulating, Distinct, Hopping, Max, Min, Sum, Tumbling, col
from anabranch.agents.engine.partition_queue import QueuedBatch
from anabranch.agents.engine.record_queue import RecordQueue
from anabranch.agents.event_time.channel import END_MS, NEVER_MS, Channel
from anabranch.agents.event_time.event_time import EventTime, Timing, time_ms
from anabranch.agents.event_time.time_columns import moments, panes_of, stream_times, whole_times
from anabranch.agents.event_time.windows import Windows
from anabranch.agents.flows.combiner import Combiner, small_batches_by_column
from anabranch.agents.flows.operators import Filter, Keying, Operator
from anabranch.agents.flows.pieces import Pieces
from anabranch.agents.flows.reducers import AggregateReducer, PairReducer, Reducer
from anabranch.agents.flows.window_agents import Source
from anabranch.agents.flows.window_states import States, WaitingRows
from anabranch.agents.tables.window_content import WindowSpec
from anabranch.topics.packed import pack, rows_of
from anabranch.topics.topic_partition import TopicPartition
from hypothesis import event, given, settings
from hypothesis import strategies as st
from offline_app import Plain

EXAMPLES = int(os.environ.get("ANABRANCH_FUZZ_EXAMPLES", "100"))
HOUR_MS = 3_600_000
BASE_MS = 1_774_742_400_000  # 2026-03-29, when clocks are changed in Berlin
AT = TopicPartition("sales", 0)

WINDOWS: dict[str, Windows] = {
    "tumbling": Tumbling("10s", offset="3s"),
    "days": Tumbling("1d", zone="Europe/Berlin", offset="6h"),
    "months": Tumbling("1mo", zone="Asia/Beirut"),
    "hopping": Hopping("10s", "4s"),
    "cumulating": Cumulating("12s", "4s", offset="1s"),
}


# The parts ----------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 3),
    st.sampled_from([10**9, 10**10, 10**10 - 1, -2_208_988_800_000, 7_258_118_400_000, 7_258_118_399_999]),
)


@pytest.mark.parametrize("unit", [None, "s", "ms", "us", "ns"])
@settings(max_examples=40, deadline=None)
@given(st.one_of(st.lists(NUMBERS, min_size=1), st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1)))
def test_numbers_are_the_same_times_by_column(unit: Any, values: list[Any]) -> None:
    times, off = whole_times(np.array(values), unit)
    for value, time, refused in zip(values, times.tolist(), off.tolist(), strict=True):
        assert (None if refused else time) == read(value, unit)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([None, "s", "ms"]),
    st.lists(st.one_of(NUMBERS, st.sampled_from([None, True, 1.5, 5, 10**12])), max_size=4),
)
def test_times_are_read_together_as_one_by_one(unit: Any, values: list[Any]) -> None:
    time = EventTime("at", unit)
    try:
        found = time.batch_reader(itemgetter)([{"at": value} for value in values], values)
    except ValueError:
        assert None in [read(value, unit) for value in values]
    else:
        assert found == [read(value, unit) for value in values]


def read(value: Any, unit: Any = None) -> int | None:
    try:
        return time_ms(value, unit)
    except ValueError:
        return None


TEXT_TIMES = """
soon 2026-01-31 2026-01-31T12:00:00 20260131T120000Z 2026-W05-6T12:00:00Z 2026-01-31T24:00:00Z
2026-01-31T12:00:60Z 2026-02-30T12:00:00Z 2026-01-31T12Z 2026-01-31T12:00:00,5Z 2026-01-31T12:00:00z
2026-01-31T12:00:00.123456789Z 1969-12-31T23:59:59.9999Z 2026-01-31T12:00:00+24:00 0000-01-01T00:00:00Z
+2026-01-31T12:00:00Z
"""
TEXTS = st.one_of(
    st.datetimes().map(lambda at: at.isoformat() + "Z"),
    st.datetimes().map(lambda at: at.isoformat(timespec="milliseconds") + "+05:30"),
    st.datetimes().map(lambda at: at.isoformat(sep=" ", timespec="seconds") + "-0800"),
    st.sampled_from(TEXT_TIMES.split()),
    st.text(max_size=4),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_texts_are_the_same_times_by_column(texts: list[str]) -> None:
    times, off = moments(pa.array(texts, pa.large_string()))
    for text, time, refused in zip(texts, times.tolist(), off.tolist(), strict=True):
        assert (None if refused else time) == read(text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 300), st.sampled_from([1000, 1050, 5000, 10**12])), min_size=1, max_size=40),
    st.sampled_from([None, 60, 2**62]),
    st.sampled_from([None, [None, 70], [50, None], [50, 1000], ["end", None], [10, None, 5]]),
    st.sampled_from([-1, 0, 500]),
)
def test_stream_time_before_each_row_is_the_same_by_column(
    times: list[int], max_jump_ms: int | None, state: Any, kafka_ms: int
) -> None:
    by_row, by_column = Channel(max_jump_ms, state), Channel(max_jump_ms, state)
    before: list[int] = []
    for time in times:
        before.append(by_row.time_ms)
        by_row.advance(time, kafka_ms)
    assert stream_times(by_column, np.array(times), lambda _: kafka_ms).tolist() == before
    assert by_column.state == by_row.state


@pytest.mark.parametrize("kind", WINDOWS)
@settings(max_examples=30, deadline=None)
@given(
    st.one_of(
        st.lists(st.integers(-40_000, 40_000), min_size=1),
        st.lists(st.integers(BASE_MS - 40 * HOUR_MS, BASE_MS + 40 * HOUR_MS), min_size=1),
        st.lists(st.integers(-2_208_988_800_000, 7_258_118_399_999), min_size=1),
    )
)
def test_panes_are_the_same_by_column(kind: str, times: list[int]) -> None:
    windows = WINDOWS[kind]
    codes, panes = panes_of(windows, np.array(times))
    assert [panes[code] for code in codes] == [windows.pane(time) for time in times]
    assert set(codes.tolist()) == set(range(len(panes)))


# The whole ----------------------------------------------------------------------------------------------------------


class Context:
    def __init__(self) -> None:
        self.letters: list[tuple[int, str, str]] = []

    def apply_policy(self, stream: Any, message: Any, error: Exception, reason: str) -> None:
        del stream
        self.letters.append((message.row, reason, str(error)))


class Late:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, stream: Any, message: Any, pane: Any, watermark_ms: int, reason: str) -> None:
        del stream
        self.sent.append((message.row, pane, watermark_ms, reason))


class Stream:
    def __init__(self, topic: Any) -> None:
        self.app, self.topic, self.queue, self.context = topic.app, topic, RecordQueue(), Context()
        self.queue.begin(AT, 0)
        self.message: Any = None


class Sale(msgspec.Struct):
    user: str | None
    at: int | None
    price: float | None


USERS = [None, "ann", "bob", "cat"]
PRICES = [None, 1.0, 2.5, 0.0, -0.5, 13.0, float("nan")]
STEPS: list[tuple[Operator, ...]] = [
    (),
    (Filter(col("price") != 13.0),),
    (Filter(col("price") > 0),),
]
ENDS: list[Reducer] = [
    AggregateReducer({"n": Count(), "spent": Sum("price"), "most": Max("price"), "least": Min(col("price") + 1)}),
    AggregateReducer({"n": Count()}),
    PairReducer(sum),
]
# Many of them at borders of windows, where late and not late meet.
MOMENTS = st.builds(lambda at_s, before_ms: at_s * 1000 - before_ms, st.integers(0, 40), st.sampled_from([0, 1, 500]))
TIMES: dict[str, tuple[Any, Any]] = {
    "field": (EventTime("at"), st.one_of(MOMENTS, st.sampled_from([None, 10**9, -1, 10**12]))),
    "seconds": (EventTime("at", "s"), st.one_of(st.integers(0, 60), st.sampled_from([None, 10**9, -(2**40), 2**62]))),
    "days": (EventTime("at"), st.integers(BASE_MS, BASE_MS + 90 * HOUR_MS)),
    "expression": (EventTime(col("at") * 1000), st.one_of(st.none(), st.integers(0, 60))),
    "kafka": (EventTime(), st.one_of(MOMENTS, st.sampled_from([-1, -9, 10**12]))),
}


@st.composite
def batches(draw: Any, times: Any) -> list[tuple[pa.RecordBatch, int]]:
    made: list[tuple[pa.RecordBatch, int]] = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 20))

        def listed(of: Any, count: int = count) -> list[Any]:
            return draw(st.lists(of, min_size=count, max_size=count))

        at = sorted(listed(times), key=lambda at: at or 0) if draw(st.booleans()) else listed(times)
        some = draw(st.booleans())
        columns = {
            "user": pa.array(listed(st.sampled_from(USERS if some else USERS[1:])), pa.string()),
            "at": pa.array(at, pa.int64()),
            "price": pa.array(listed(st.sampled_from(PRICES if some else PRICES[1:-1])), pa.float64()),
            "__time": pa.array([time if time is not None else 5 for time in at], pa.int64()),
        }
        closed_ms = draw(st.sampled_from([NEVER_MS, 20_000, END_MS])) if draw(st.booleans()) else NEVER_MS
        made.append((pa.record_batch(columns), closed_ms))
    return made


def snapshot(waiting: WaitingRows) -> WaitingRows:
    made: Any = copy(waiting)  # `add` appends to its pieces
    made._pieces = Pieces(made._pieces)
    return made


def outcome(
    columnar: bool,
    made: list[Any],
    declared: Any,
    kind: str,
    how: Reducer,
    steps: Any,
    *,
    time: EventTime,
    grace_ms: int,
    waits: bool = False,
) -> Any:
    """Return what batches come to: states, letters, late rows, and stream time after each.

    Args:
        waits: whether rows may wait for those of later batches, and states are those of all batches together.
    """
    app = App("columns")
    topic: Any = app.topic("sales", value_type=declared)
    stream, late, found = Stream(topic), Late(), list[Any]()
    keying = Keying(topic, steps, ("user", None if isinstance(how, AggregateReducer) else "price"))
    spec = WindowSpec(WINDOWS[kind], grace_ms, keep_ms=None, timing=Timing(time, grace_ms, HOUR_MS))
    source = Source(cast(Any, stream), Combiner(keying, how, declared), spec, idle_after_ms=None, late=cast(Any, late))
    assert source._is_columnar  # pyright: ignore[reportPrivateUsage]
    source._is_columnar = columnar  # pyright: ignore[reportPrivateUsage]
    ways: Counter[bool] = Counter()
    by_column = source._by_column  # pyright: ignore[reportPrivateUsage]

    def counted(*arguments: Any) -> Any:
        done = by_column(*arguments)
        ways[done is not None] += 1
        return done

    cast(Any, source)._by_column = counted
    all_states, all_waiting = States(), WaitingRows(how)
    for offset, (batch, closed_ms) in enumerate(made):
        record = pack(batch, time="__time")
        rows: Any = rows_of("sales", 0, Plain(offset, None, record.value, record.headers))
        before = stream.queue.at(AT).channel_state
        counts = len(stream.context.letters), len(late.sent)
        states, waiting = (deepcopy(all_states), snapshot(all_waiting)) if waits else (States(), None)
        try:
            source.judge(QueuedBatch(AT, rows, offset + 1), states, closed_ms, waiting)
        except Exception:
            # As the engine does: roll back, then record by record.
            stream.queue.at(AT).channel_state = before
            del stream.context.letters[counts[0] :], late.sent[counts[1] :]
            states, waiting = (deepcopy(all_states), snapshot(all_waiting)) if waits else (States(), None)
            stream.queue.isolating = True
            for row in range(len(rows)):
                source.judge(QueuedBatch(AT, rows[row : row + 1], offset + 1), states, closed_ms, waiting)
            stream.queue.isolating = False
        if waiting is not None:
            all_states, all_waiting = states, waiting
            if offset == len(made) - 1:
                waiting.reduce_into(states)
        letters, lates = stream.context.letters, late.sent
        is_known = not waits or offset == len(made) - 1
        reduced = states if is_known else States()
        flat = sorted((key, *pane, state) for pane, of_pane in reduced.items() for key, state in of_pane.items())
        found.append((flat, sorted(letters), sorted(lates), stream.queue.at(AT).channel_state))
    return found, ways


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(sorted(WINDOWS)), st.sampled_from(sorted(TIMES)), st.sampled_from([None, Sale]), st.data())
def test_a_batch_comes_to_the_same_by_column(kind: str, time: str, declared: Any, data: Any) -> None:
    event_time, times = TIMES[time]
    made = data.draw(batches(times))
    how, steps = data.draw(st.sampled_from(ENDS)), data.draw(st.sampled_from(STEPS))
    grace_ms = data.draw(st.sampled_from([0, 4_000]))
    with small_batches_by_column():
        by_row, _ = outcome(False, made, declared, kind, how, steps, time=event_time, grace_ms=grace_ms)
        by_column, ways = outcome(True, made, declared, kind, how, steps, time=event_time, grace_ms=grace_ms)
        one_by_one, _ = outcome(False, made, declared, kind, how, steps, time=event_time, grace_ms=grace_ms, waits=True)
        together, _ = outcome(True, made, declared, kind, how, steps, time=event_time, grace_ms=grace_ms, waits=True)
    event("all by column" if not ways[False] else "some by row" if ways[True] else "all by row")
    event("late" if by_row[-1][2] else "none late")
    assert repr(by_column) == repr(by_row)
    assert repr(together) == repr(one_by_one)


def test_a_batch_that_cannot_wait_is_reduced_behind_those_that_do() -> None:
    how = AggregateReducer({"most": Max("price"), "sum": Sum("weight")})
    columns = {"user": ["ann"], "at": [5], "__time": [5]}
    waits = pa.record_batch({**columns, "price": [1], "weight": [1.0]})
    # A weight of -0.0 cannot wait. 1 and 1.0 are equal, so the first of them is the greatest.
    alone = pa.record_batch({**columns, "price": [1.0], "weight": [-0.0]})
    made = [(waits, NEVER_MS), (alone, NEVER_MS)]
    with small_batches_by_column():
        found = [
            outcome(columnar, made, None, "tumbling", how, (), time=EventTime("at"), grace_ms=0, waits=True)[0]
            for columnar in (False, True)
        ]
    assert repr(found[1]) == repr(found[0])


def test_batches_of_aggregates_that_never_wait_are_read_once() -> None:
    columns = {"user": ["ann"], "at": [5], "__time": [5], "price": [1]}
    made = [(pa.record_batch(columns), NEVER_MS)] * 3
    how = AggregateReducer({"prices": Distinct("price")})
    with small_batches_by_column():
        found, ways = outcome(True, made, None, "tumbling", how, (), time=EventTime("at"), grace_ms=0, waits=True)
    assert ways == {True: 3}
    assert found[-1][0] == [("ann", -7000, 3000, [[1]])]
