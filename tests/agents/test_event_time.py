"""Event time without Kafka: times of records, stream time, windows, and the theorem behind them.

The theorem: which records are late, and what windows hold when they close, follows from the logs of the source
partitions, whatever the order in which their records meet. It is checked against a twin that knows all logs at once.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from anabranch.agents.event_time.channel import END_MS, NEVER_MS, Channel, watermark
from anabranch.agents.event_time.event_time import EventTime, time_ms
from anabranch.agents.event_time.time_keeper import TimeKeeper, watermark_message
from anabranch.agents.event_time.windows import Cumulating, Hopping, Sessions, Tumbling, Window, Windows
from anabranch.agents.flows.watermarked_partials import WatermarkedPartials
from anabranch.topics.control_records import WATERMARK, ControlRecord
from anabranch.topics.durations import duration_ms
from anabranch.topics.errors import BadRecord, Usage
from hypothesis import given, settings
from hypothesis import strategies as st

Log = list[tuple[int, str]]


def late_of(log: Log, windows: Windows, grace: int, max_jump: int | None = None) -> list[bool]:
    """Return whether each record is late by the log that it is in."""
    channel, late = Channel(max_jump), list[bool]()
    for time, _ in log:
        late.append(watermark(channel.time_ms, grace) > windows.horizon_ms(windows.pane(time)))
        channel.advance(time)
    return late


def closed(log: Log, windows: Windows, grace: int, *, end: bool = True, max_jump: int | None = None) -> list[Any]:
    """Return what one partition closes, one record after the other: (watermark, key, start, end, count)."""
    channel, told, counts = Channel(max_jump), list[Any](), defaultdict[Any, int](int)
    for number, late in enumerate(late_of(log, windows, grace, max_jump)):
        time, key = log[number]
        if not late:
            add(counts, windows, key, time)
        channel.advance(time)
        told += close(counts, windows, watermark(channel.time_ms, grace), log[number][0])
    return [*told, *close(counts, windows, END_MS, "end")] if end else told


def add(counts: dict[Any, int], windows: Windows, key: str, time: int) -> None:
    if windows.gap_ms is None:
        for window in windows.of_pane(windows.pane(time)):
            counts[key, *window] += 1
        return
    start, end, count = time, time + 1, 1
    for other in [each for each in counts if each[0] == key]:
        if other[1] - windows.gap_ms < end and start - windows.gap_ms < other[2]:
            start, end, count = min(start, other[1]), max(end, other[2]), count + counts.pop(other)
    counts[key, start, end] = count


def close(counts: dict[Any, int], windows: Windows, watermark_ms: int, at: object) -> list[Any]:
    due = sorted((end, key, start) for key, start, end in counts if windows.closes_after_ms(end) < watermark_ms)
    return [(at, key, start, end, counts.pop((key, start, end))) for end, key, start in due]


def of_a(*times: int) -> Log:
    return [(time, "a") for time in times]


def spans(found: list[Any]) -> list[Any]:
    return [(start, end, count) for _, _, start, end, count in found]


# Named behaviours; times in seconds ---------------------------------------------------------------------------------

TEN = Tumbling(0.01)  # of 10 ms, which the tests below call seconds


def test_a_window_closes_at_the_first_record_beyond_it_and_the_last_one_at_the_end() -> None:
    assert closed(of_a(1, 5, 12), TEN, 0) == [(12, "a", 0, 10, 2), ("end", "a", 10, 20, 1)]


def test_the_end_of_a_window_belongs_to_the_next_one() -> None:
    assert closed(of_a(9, 10), TEN, 0) == [(10, "a", 0, 10, 1), ("end", "a", 10, 20, 1)]


def test_times_before_1970_are_rounded_down() -> None:
    assert closed(of_a(-1), TEN, 0) == [("end", "a", -10, 0, 1)]


def test_grace_keeps_a_window_open() -> None:
    assert closed(of_a(1, 12, 3, 14, 15), TEN, 5)[0] == (15, "a", 0, 10, 2)


def test_a_record_behind_the_watermark_is_late() -> None:
    assert late_of(of_a(1, 15, 3), TEN, 5) == [False, False, True]


def test_a_record_as_old_as_the_newest_is_not_late_and_windows_decide_for_older_ones() -> None:
    assert late_of(of_a(5, 5), TEN, 0) == late_of(of_a(5, 4), TEN, 0) == [False, False]


BIDS = [(5, 4), (7, 2), (9, 5), (11, 3), (13, 1), (17, 6)]


def bids(windows: Windows) -> dict[Any, int]:
    sums: dict[Any, int] = defaultdict(int)
    for time, price in BIDS:
        for window in windows.of_pane(windows.pane(time)):
            sums[window] += price
    return dict(sums)


def test_tumbling_sums() -> None:
    assert bids(TEN) == {(0, 10): 11, (10, 20): 10}


def test_hopping_sums() -> None:
    assert bids(Hopping(0.01, 0.005)) == {(0, 10): 11, (5, 15): 15, (10, 20): 10, (15, 25): 6}


def test_cumulating_sums() -> None:
    by_end = {end: total for (_, end), total in bids(Cumulating(0.01, 0.002)).items()}
    assert by_end == {6: 4, 8: 6, 10: 11, 12: 3, 14: 4, 16: 4, 18: 10, 20: 10}


def test_a_record_counts_in_all_of_its_hopping_windows_or_in_none() -> None:
    assert late_of(of_a(7, 12, 4), Hopping(0.01, 0.005), 0) == [False, False, True]


def test_records_exactly_a_gap_apart_are_one_session() -> None:
    assert spans(closed(of_a(0, 10, 21), Sessions(0.01), 0)) == [(0, 11, 2), (21, 22, 1)]


def test_a_record_that_bridges_two_sessions_makes_one_of_them() -> None:
    assert spans(closed(of_a(0, 15, 8), Sessions(0.01), 20)) == [(0, 16, 3)]


def test_a_record_that_might_meet_a_closed_session_is_late() -> None:
    log = [(0, "a"), (6, "b"), (3, "a")]
    assert late_of(log, Sessions(0.005), 0) == [False, False, True]
    assert closed(log, Sessions(0.005), 0) == [(6, "a", 0, 1, 1), ("end", "b", 6, 7, 1)]


@pytest.mark.parametrize(
    ("times", "stream_times"),
    [
        ([0, 10, 20, 99_999, 30, 40], [None, 10, 20, 20, 30, 40]),
        ([0, 10, 5_000, 5_010], [None, 10, 10, 5_010]),
        ([99_999, 0, 10], [None, 0, 10]),
        ([0, 10, 5_000, 5_010, 20, 30], [None, 10, 10, 5_010, 5_010, 5_010]),
    ],
)
def test_one_bad_clock_moves_no_time_and_a_gap_in_the_data_does(times: list[int], stream_times: list[Any]) -> None:
    channel, seen = Channel(60), list[Any]()
    for time in times:
        channel = Channel(60, channel.state)  # a crash between any two records
        channel.advance(time)
        seen.append(None if channel.time_ms == NEVER_MS else channel.time_ms)
    assert seen == stream_times


def test_a_jump_goes_no_further_than_the_broker_s_clock_allows() -> None:
    channel = Channel(60)
    for time, kafka in [(0, 0), (10, 10), (9_999_999, 20), (9_999_999, 30)]:
        channel.advance(time, kafka)
    assert channel.time_ms == 30 + 60


@pytest.mark.parametrize(
    ("size", "date", "hours"),
    [
        ("1d", "2026-03-29", 23),
        ("1d", "2026-10-25", 25),
        ("1mo", "2026-02-10", 28 * 24),
        ("1y", "2028-06-01", 366 * 24),
    ],
)
def test_calendar_windows_follow_the_zone(size: str, date: str, hours: int) -> None:
    windows = Tumbling(size, zone="Europe/Berlin")
    start, end = windows.pane(time_ms(f"{date}T12:00:00+01:00"))
    assert (end - start) / 3_600_000 == hours
    assert windows.pane(start)[0] == start
    assert windows.pane(end)[0] == end
    assert windows.pane(start - 1)[1] == start


def test_weeks_begin_on_monday_and_days_at_their_offset() -> None:
    start, _ = Tumbling("1w", zone="UTC").pane(time_ms("2026-01-31T00:00Z"))
    assert datetime.fromtimestamp(start / 1000, UTC).strftime("%A %d") == "Monday 26"
    start, _ = Tumbling("1d", zone="Europe/Berlin", offset="6h").pane(time_ms("2026-06-01T05:59+02:00"))
    assert start == time_ms("2026-05-31T06:00+02:00")


def test_a_day_whose_midnight_does_not_exist_begins_at_its_first_instant() -> None:
    start, end = Tumbling("1d", zone="America/Sao_Paulo").pane(time_ms("2018-11-04T12:00:00-02:00"))
    assert start == time_ms("2018-11-04T01:00:00-02:00")
    assert end - start == 23 * 3_600_000
    # Half past two does not exist on that day: it begins when the clock is put forward to three.
    start, _ = Tumbling("1d", zone="Europe/Berlin", offset="150m").pane(time_ms("2026-03-29T12:00+02:00"))
    assert start == time_ms("2026-03-29T03:00+02:00")
    # A whole day that a zone has left out is no window.
    start, end = Tumbling("1d", zone="Pacific/Apia").pane(time_ms("2011-12-30T09:59:59Z"))
    assert end == time_ms("2011-12-30T10:00:00Z") == Tumbling("1d", zone="Pacific/Apia").pane(end)[0]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Tumbling(0),
        lambda: Tumbling("5 parsecs"),
        lambda: Tumbling("1mo"),
        lambda: Tumbling("3d", zone="UTC"),
        lambda: Tumbling("1d", zone="Mars/Olympus"),
        lambda: Tumbling("5m", offset="5m"),
        lambda: Hopping("5m", "10m"),
        lambda: Hopping("1d", "1s"),
        lambda: Cumulating("1h", "7m"),
        lambda: Sessions(-1),
        lambda: Sessions(0.0001),
        lambda: duration_ms(True, "grace"),
        lambda: duration_ms(1e300, "grace"),
        lambda: EventTime(7),  # pyright: ignore[reportArgumentType]
        lambda: EventTime("at", "h"),  # pyright: ignore[reportArgumentType]
        lambda: EventTime(None, "s"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(Usage):
        wrong()


def test_windows_say_what_they_are() -> None:
    assert str(Hopping("1h", "5m")) == "Hopping(1h, 5m)"
    assert str(Tumbling("1d", zone="Europe/Berlin", offset="6h")) == "Tumbling(1d, Europe/Berlin, 21600000)"
    window = Window.of(1_000, 2_500)
    assert (window.start_ms, window.end_ms, window.end.tzinfo) == (1_000, 2_500, UTC)


# Times of records ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1_769_860_800_000, None, 1_769_860_800_000),
        (1_769_860_800, "s", 1_769_860_800_000),
        (1_769_860_800.0009, "s", 1_769_860_800_000),
        (-1, "us", -1),
        (datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1))), None, 1_769_860_800_000),
        ("2026-01-31T12:00:00.000999Z", None, 1_769_860_800_000),
        ("1969-12-31T23:59:59.9995Z", None, -1),
        (1_769_860_800, "ms", 1_769_860_800),
    ],
)
def test_times(value: object, unit: Any, expected: int) -> None:
    assert time_ms(value, unit) == expected


@pytest.mark.parametrize(
    ("value", "unit", "why"),
    [
        (None, None, "no time"),
        (datetime(2026, 1, 31), None, "which zone"),
        ("2026-01-31T12:00:00", None, "which zone"),
        ("yesterday", None, "ISO 8601"),
        (True, None, "bool"),
        (float("nan"), None, "no time"),
        (1_769_860_800, None, 'time_unit="s"'),
        (1_769_860_800_000, "s", "1900 and 2200"),
        (10**30, None, "1900 and 2200"),
    ],
)
def test_what_is_no_time_is_refused(value: object, unit: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        time_ms(value, unit)


# The theorem --------------------------------------------------------------------------------------------------------

LOGS = st.lists(st.lists(st.tuples(st.integers(-20, 60), st.sampled_from("abc")), max_size=14), min_size=1, max_size=4)
WINDOWS = st.sampled_from(
    [Tumbling(0.01), Hopping(0.01, 0.005), Hopping(0.01, 0.004), Cumulating(0.012, 0.004), Sessions(0.006)]
)
SCHEDULE = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=14)
Case = tuple[list[Log], Windows, int, int | None]


def met(case: Case, schedule: list[tuple[int, int]]) -> tuple[list[Any], list[Any]]:
    """Send logs through one repartition partition, in epochs as the schedule has them: (told, late)."""
    logs, windows, grace, max_jump = case
    channels = [Channel(max_jump) for _ in logs]
    position, between, late = [0] * len(logs), list[Any](), list[Any]()
    for partition, count in [*schedule, *((partition, 99) for partition in range(len(logs)))]:
        if partition >= len(logs):
            continue
        begin = position[partition]
        batch, channel = logs[partition][begin : begin + count], channels[partition]
        before = channel.before_each([time for time, _ in batch], lambda _: -1)
        for number, (time, key) in enumerate(batch):
            pane = windows.pane(time)
            if before is not None and watermark(before[number], grace) > windows.horizon_ms(pane):
                late.append((partition, begin + number))
            else:
                between.append((key, time))
        position[partition] += len(batch)
        if count == 99:
            channel.end()
        if channel.time_ms != NEVER_MS:
            message = watermark_message(len(logs), {f"t:{partition}": channel.time_ms})
            between.append(ControlRecord.parsed(b"mark", message.encoded()))
    keeper, counts, told = TimeKeeper(), dict[Any, int](), list[Any]()
    counts = defaultdict[Any, int](int)
    for record in between:
        if isinstance(record, ControlRecord):
            earlier = keeper.time_ms
            keeper = TimeKeeper(keeper.state)  # a crash in front of each watermark message
            keeper.hear(record)
            assert keeper.time_ms >= earlier
            told += close(counts, windows, keeper.watermark(grace), "")
        else:
            key, time = record
            assert windows.horizon_ms(windows.pane(time)) >= keeper.watermark(grace), "a record met a closed window"
            add(counts, windows, key, time)
    assert not counts
    return told, sorted(late)


def twin(case: Case) -> tuple[list[Any], list[Any]]:
    """Say the same from all logs at once."""
    logs, windows, grace, max_jump = case
    counts, late = defaultdict[Any, int](int), list[Any]()
    for partition, log in enumerate(logs):
        for number, is_late in enumerate(late_of(log, windows, grace, max_jump)):
            if is_late:
                late.append((partition, number))
            else:
                add(counts, windows, log[number][1], log[number][0])
    return close(counts, windows, END_MS, ""), sorted(late)


@settings(deadline=None)
@given(LOGS, WINDOWS, st.integers(0, 12), st.sampled_from([None, 3, 25]), SCHEDULE)
def test_what_closes_and_what_is_late_follow_from_the_logs(
    logs: list[Log], windows: Windows, grace: int, max_jump: int | None, schedule: list[tuple[int, int]]
) -> None:
    case = logs, windows, grace, max_jump
    told, late = met(case, schedule)
    expected, late_expected = twin(case)
    assert late == late_expected
    assert sorted(told) == sorted(expected)
    ends = [end for _, _, _, end, _ in told]
    assert ends == sorted(ends)


@settings(deadline=None)
@given(st.lists(st.integers(0, 500)), st.integers(0, 100), st.integers(1, 5))
def test_stream_time_never_goes_back_nor_beyond_the_newest_record(times: list[int], jump: int, batch: int) -> None:
    channel, seen = Channel(jump), [NEVER_MS]
    one_by_one = Channel(jump)
    for begin in range(0, len(times), batch):
        part = times[begin : begin + batch]
        before = channel.before_each(part, lambda _: -1)
        for number, time in enumerate(part):
            assert before is None or before[number] == one_by_one.time_ms
            assert before is not None or time >= min(one_by_one.time_ms, time)
            if before is None:
                assert time >= one_by_one.time_ms
            one_by_one.advance(time)
            seen.append(one_by_one.time_ms)
        assert channel.state == one_by_one.state
    assert seen == sorted(seen)
    assert channel.time_ms <= max(times, default=NEVER_MS)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=3, max_size=30), st.data())
def test_one_bad_clock_makes_nobody_late(log: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(log)))
    good, bad = Channel(60), Channel(60)
    for number, time in enumerate(log):
        if number == place:
            bad.advance(10**6)
        good.advance(time)
        bad.advance(time)
        assert bad.time_ms <= max(good.time_ms, *log[: number + 1])


@settings(deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(1, 40), st.integers(1, 40), st.integers(0, 39))
def test_each_pane_holds_its_times_and_lies_in_each_of_its_windows(
    time: int, size: int, step: int, offset: int
) -> None:
    kinds: list[Windows] = [Tumbling(size / 1000, offset=offset % size / 1000), Sessions(size / 1000)]
    if step <= size:
        kinds.append(Hopping(size / 1000, step / 1000, offset=offset % step / 1000))
    if size % step == 0:
        kinds.append(Cumulating(size / 1000, step / 1000, offset=offset % size / 1000))
    for windows in kinds:
        start, end = windows.pane(time)
        assert start <= time < end
        found = windows.of_pane((start, end))
        assert found
        assert all(first <= start and end <= last for first, last in found)
        assert [last for _, last in found] == sorted({last for _, last in found})
        if isinstance(windows, Hopping):
            every = [
                (first, first + size)
                for first in range(time - 2 * size - step, time + step + 1)
                if (first - offset % step) % step == 0 and first <= time < first + size
            ]
            assert found == every


# Watermark messages -------------------------------------------------------------------------------------------------


def test_a_partition_that_was_never_heard_of_holds_time_back() -> None:
    keeper = TimeKeeper()
    keeper.hear(watermark_message(2, {"t:0": 100}))
    assert (keeper.time_ms, keeper.waits_for) == (NEVER_MS, [])
    keeper.hear(watermark_message(2, {"t:1": 3}))
    assert (keeper.time_ms, keeper.waits_for) == (3, ["t:1"])
    keeper.hear(watermark_message(2, {"t:0": 50, "t:1": END_MS}))
    assert (keeper.time_ms, keeper.waits_for) == (100, ["t:0"])
    assert TimeKeeper(keeper.state).state == keeper.state


def test_idle_partitions_count_up_to_the_moment_at_which_they_were_at_their_end() -> None:
    keeper = TimeKeeper()
    keeper.hear(watermark_message(2, {"t:0": 100}, at_ms=10))
    keeper.hear(watermark_message(2, {"t:1": NEVER_MS}, ["t:1"], 20))
    assert keeper.time_ms == 100
    keeper.hear(watermark_message(2, {"t:0": 200}, at_ms=30))
    assert keeper.time_ms == 100
    keeper.hear(watermark_message(2, {"t:1": NEVER_MS}, ["t:1"], 31))
    assert keeper.time_ms == 200
    keeper.hear(watermark_message(2, {"t:0": 300}, at_ms=40))
    keeper.hear(watermark_message(2, {"t:1": 250}, at_ms=41))
    assert (keeper.time_ms, keeper.waits_for) == (250, ["t:1"])


def test_if_all_partitions_are_idle_it_is_as_late_as_in_the_latest() -> None:
    keeper = TimeKeeper()
    keeper.hear(watermark_message(3, {"t:0": 100, "t:1": 7, "t:2": NEVER_MS}, ["t:0", "t:1", "t:2"], 20))
    assert keeper.time_ms == 100


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 50) | st.just(NEVER_MS), st.booleans(), st.integers(0, 5_000)),
        max_size=40,
    )
)
def test_time_never_goes_back_and_a_restart_changes_nothing(messages: list[tuple[int, int, bool, int]]) -> None:
    keeper, restarted, at_ms, times = TimeKeeper(), TimeKeeper(), 0, {0: NEVER_MS, 1: NEVER_MS, 2: NEVER_MS}
    by_records = TimeKeeper()
    for channel, time, idle, later in messages:
        at_ms += later
        times[channel] = max(times[channel], time)
        message = watermark_message(3, {f"t:{channel}": times[channel]}, [f"t:{channel}"] if idle else [], at_ms)
        before = keeper.time_ms
        keeper.hear(message)
        restarted = TimeKeeper(restarted.state)
        restarted.hear(message)
        if idle:
            by_records.hear(message)
        else:
            by_records.hear_record(3, f"t:{channel}", times[channel], at_ms)
        assert before <= keeper.time_ms <= max(times.values())
        assert restarted.state == by_records.state == keeper.state


def test_an_idle_channel_goes_on_at_the_pace_of_the_clock_until_its_windows_have_closed() -> None:
    channel, until = Channel(None), lambda time: time + 25
    channel.rest(500, until)
    assert channel.state == [None, None, NEVER_MS]
    channel.advance(100)
    for idle_ms, expected in [(0, 100), (10, 110), (20, 120), (90, 125)]:
        channel = Channel(None, channel.state)
        channel.rest(idle_ms, until)
        assert channel.time_ms == expected
    channel.advance(110)
    assert channel.state == [125, None]


def test_silence_goes_on_until_the_window_of_a_record_that_was_far_ahead_has_closed() -> None:
    channel, until = Channel(60), lambda time: time + 25
    for time in (100, 101, 500):
        channel.advance(time)
    for idle_ms, expected in [(10, 111), (398, 499), (399, 500), (900, 525)]:
        channel = Channel(60, channel.state)
        channel.rest(idle_ms, until)
        assert channel.time_ms == expected
    channel.advance(510)
    assert channel.state == [525, None], "time has confirmed the record, so no jump is held"


def test_silence_confirms_a_first_record_that_nothing_has_confirmed() -> None:
    channel = Channel(60)
    channel.advance(99_999)
    channel.rest(0, lambda time: time + 25)
    assert channel.time_ms == 99_999


def test_an_added_partition_does_not_move_time_back() -> None:
    keeper = TimeKeeper()
    keeper.hear(watermark_message(1, {"t:0": 100}))
    keeper.hear(watermark_message(2, {"t:1": 3}))
    assert keeper.time_ms == 100
    assert TimeKeeper(keeper.state).time_ms == 100


@pytest.mark.parametrize("value", [None, 7, {"of": 1}, {"of": 1, "t": {"a": "soon"}}, {"of": 1, "t": [1]}])
def test_a_watermark_message_of_another_form_is_refused(value: Any) -> None:
    with pytest.raises(BadRecord):
        TimeKeeper().hear(ControlRecord("mark", value))


def test_a_channel_whose_time_has_moved_before_it_was_idle_in_one_epoch_is_told_as_idle() -> None:
    partials = WatermarkedPartials(lambda states, timestamp_ms: [], "t", lambda: (1, 2))
    partials.move("a:0", 5)
    partials.move("a:1", 9)
    partials.rest("a:0", 7)
    keeper = TimeKeeper()
    for output in partials.outputs():
        keeper.hear(ControlRecord.parsed(WATERMARK.encode(), output.value))
    assert keeper.idle_at_ms.keys() == {"a:0"}
