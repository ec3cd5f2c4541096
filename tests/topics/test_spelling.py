"""Suggestions for misspelled names."""

from __future__ import annotations

import pytest
from anabranch.topics.spelling import did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("ordrs", ["orders", "totals"], "orders"),
        ("ORDERS", ["orders", "totals"], "orders"),
        ("order", ["orders", "Order"], "Order"),
        ("xyz", ["orders"], None),
        ("orders", [], None),
    ],
)
def test_the_nearest_name_is_found(name, known, meant):
    assert nearest(name, known) == meant


def test_a_question_or_another_hint():
    assert did_you_mean("ordrs", ["orders"], "see the manual") == "did you mean orders?"
    assert did_you_mean("xyz", ["orders"], "see the manual") == "see the manual"
    assert did_you_mean("xyz", ["orders"]) == ""
