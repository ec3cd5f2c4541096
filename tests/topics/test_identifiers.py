"""Identifiers are random, unless a test seeds them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from anabranch.topics.identifiers import kafka_uuid, random_hex, random_uuid, seeded

DRAWN = {
    "hex": (lambda: random_hex(12), "[0-9a-f]{12}"),
    "uuid": (lambda: str(random_uuid()), "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
    "kafka": (kafka_uuid, "[A-Za-z0-9_][A-Za-z0-9_-]{21}"),
}


@pytest.mark.parametrize(("draw", "pattern"), DRAWN.values(), ids=DRAWN)
def test_they_have_their_form_and_differ(draw: Callable[[], str], pattern: str) -> None:
    found = [draw() for _ in range(300)]
    assert all(re.fullmatch(pattern, each) for each in found)
    assert len(set(found)) == 300


@pytest.mark.parametrize(("draw", "pattern"), DRAWN.values(), ids=DRAWN)
def test_a_seed_decides_them_inside_of_the_block(draw: Callable[[], str], pattern: str) -> None:
    with seeded(1):
        first = [draw() for _ in range(5)]
    with seeded(1):
        assert [draw() for _ in range(5)] == first
    with seeded(2):
        assert draw() != first[0]
    assert draw() not in first
