"""The order in which windows close, when it is found out in several steps."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from anabranch import Sessions, Tumbling
from anabranch.agents.event_time.channel import END_MS
from anabranch.agents.event_time.windows import Windows
from anabranch.agents.tables import open_windows
from anabranch.agents.tables.open_windows import OpenWindows
from anabranch.agents.tables.window_key import window_key_codec
from anabranch.topics.errors import BadRecord
from hypothesis import given
from hypothesis import strategies as st

KEYS = window_key_codec()
WINDOWS = st.sets(st.tuples(st.text("ab", max_size=6), st.integers(-2, 3)), max_size=30)


@given(WINDOWS, st.sampled_from([Tumbling("10s"), Sessions("5s")]), st.integers(1, 7), st.integers(1, 5))
def test_windows_close_in_the_order_of_their_ends_and_keys_however_many_are_sorted_at_once(
    some: set[tuple[str, int]], kind: Windows, step: int, most: int
) -> None:
    windows = OpenWindows(kind, KEYS.keep_all)
    rows = [(key, number * 10_000 - 10_000, number * 10_000) for key, number in some]
    for row in rows:
        windows.add(row)
    portions: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_windows, "_SORTED", step)
        while windows.has_due(100_000):
            assert len(windows) == len(rows) - sum(map(len, portions))
            assert windows.closed_ms < 100_000
            windows.is_touched = False
            portions.append(windows.take_due(100_000, most))
            # Else a commit without changes would have all of them read and sorted again: many, for ever.
            assert windows.is_touched == bool(portions[-1])
        assert windows.take_due(100_000, most) == []
    taken = list(chain.from_iterable(portions))
    assert taken == sorted(rows, key=lambda row: (row[2], KEYS.encode(row)))
    assert max(map(len, portions), default=0) <= most
    assert (windows.closed_ms, windows.after, len(windows)) == (100_000, None, 0)


def test_a_row_with_times_that_are_whole_floats_is_that_with_integers() -> None:
    row, kept = ("a", 10_000.0, 20_000.0), b'["a",10000,20000]'
    assert [KEYS.encode(row), KEYS.keep(row), *KEYS.keep_all([row, row])] == 4 * [kept]
    for wrong in (("a", 1.5, 2), ("a", 1, None)):
        with pytest.raises(BadRecord):
            KEYS.keep(wrong)
        with pytest.raises(BadRecord):
            KEYS.keep_all([wrong])


def test_windows_that_are_being_closed_or_are_closed_may_exist_and_others_only_if_they_are_open() -> None:
    windows = OpenWindows(Tumbling("10s"), KEYS.keep_all)
    closing, later, unknown = ("ann", 0, 10_000), ("ann", 10_000, 20_000), ("zoe", 10_000, 20_000)
    for row in (closing, later):
        windows.add(row)
    assert windows.possible([closing, later, unknown]) == [closing, later]
    assert windows.take_due(15_000, 1) == [closing]
    assert windows.possible([closing, later, unknown]) == [closing, later]
    assert windows.take_due(15_000, 1) == []
    assert windows.possible([closing, later, unknown]) == [closing, later]
    windows.close_due(END_MS)
    assert windows.possible([closing, later, unknown]) == [closing, later, unknown]
