"""A worker that gives up most of its records stops; one that gives up some goes on."""

from __future__ import annotations

import pytest
from anabranch.agents.engine.flood import Flood
from anabranch.topics.errors import Stop


def test_a_few_bad_records_are_no_flood_however_large_their_share():
    flood = Flood(0.5)
    flood.note(0.0, given_up=999, handled=999)


def test_many_bad_records_are_no_flood_where_most_are_good():
    flood = Flood(0.5)
    for second in range(300):
        flood.note(float(second), given_up=1_000, handled=2_000)


def test_more_than_the_share_is_a_flood():
    flood = Flood(0.5)
    flood.note(0.0, given_up=900, handled=1_000)
    with pytest.raises(Stop, match="1,000 of the last 1,100 records"):
        flood.note(1.0, given_up=100, handled=100)


def test_what_is_longer_ago_than_a_minute_is_forgotten():
    flood = Flood(0.5)
    for minute in range(10):
        flood.note(minute * 61.0, given_up=900, handled=900)


def test_a_share_of_one_lets_everything_pass():
    flood = Flood(1.0)
    flood.note(0.0, given_up=5_000, handled=5_000)
