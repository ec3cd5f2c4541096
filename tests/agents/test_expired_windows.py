"""Which windows of a partition are expired: keys are compared as bytes where that is exact."""

from __future__ import annotations

from typing import Any

import msgspec
from anabranch.agents.tables.stream_time import STREAM_TIME
from anabranch.agents.tables.window_content import ended_by
from hypothesis import example, given, settings
from hypothesis import strategies as st

TIMES = st.one_of(
    *(st.integers(10 ** (digits - 1), 10**digits) for digits in range(1, 16)),
    st.integers(-(10**15), 10**15),
    st.integers(10**12, 10**13 - 1),
    st.integers(-100, 100),
    st.just(1_700_000_000_000),
)
KEYS = st.one_of(st.text(max_size=3), st.integers(), st.lists(st.text(max_size=2), max_size=2), st.none())


def encoded(key: Any, end_ms: int) -> bytes:
    return msgspec.json.encode([key, end_ms - 60_000, end_ms])


@settings(deadline=None)
@given(st.lists(st.tuples(KEYS, TIMES)), TIMES)
@example([(None, 160_001)], 10**12)
@example([("", 5), ('"', 1), (",", 999_999_999_999), ("a", 10**13), ("b", 1_699_999_999_999)], 1_700_000_000_000)
@example([("a", 660_000), ("a", 1_700_000_000_001)], 1_700_000_000_000)  # start and end have thirteen bytes together
@example([("a", -200_000_000_000), ("a", -50_000_000_000)], -100_000_000_000)
def test_expired_windows_are_those_that_have_ended(windows: list[tuple[Any, int]], latest_ms: int) -> None:
    pairs = [(encoded(key, end_ms), b"1") for key, end_ms in windows]
    expired = {encoded(key, end_ms) for key, end_ms in windows if end_ms <= latest_ms}
    assert ended_by([*pairs, (STREAM_TIME, b"{}")], latest_ms) == expired


def test_few_keys_are_read_where_most_windows_are_open() -> None:
    pairs = [(encoded("a", 1_700_000_000_000 + end_ms), b"1") for end_ms in range(1_000)]
    assert ended_by(iter(pairs), 1_700_000_000_002) == {key for key, _ in pairs[:3]}
    assert ended_by(pairs, 1_699_999_999_999) == set()
