"""The audit names each difference between a world with faults and the worlds without, and nothing else."""

from __future__ import annotations

import pytest
from anabranch.replay.testing.audit import Expectation, Outcome, Written


def outcome() -> Outcome:
    return Outcome(
        tables={"totals": {"ann": 5, "bob": 3}},
        topics={"done": [Written(0, b"ann", b"1"), Written(0, b"ann", b"2"), Written(1, b"bob", b"3")]},
        dead_letters={"orders.dlq": [b"x"]},
    )


def differences(changed: Outcome, *, exactly_once: bool = True) -> list[str]:
    return Expectation([outcome()], exactly_once=exactly_once, ordered=["done"]).differences(changed)


def test_an_equal_outcome_has_no_differences() -> None:
    assert differences(outcome()) == []
    assert differences(outcome(), exactly_once=False) == []


def test_a_value_a_missing_key_and_one_that_should_not_be_there() -> None:
    changed = outcome()
    changed.tables["totals"] = {"ann": 7, "eve": 1}
    assert differences(changed) == [
        "table totals: 'ann' is 7, not 5; 'bob' is missing (3); 'eve' is 1, and should not exist"
    ]
    assert differences(changed, exactly_once=False) == ["table totals: 'bob' is missing (3)"]


def test_a_number_that_is_too_small_is_a_loss() -> None:
    changed = outcome()
    changed.tables["totals"]["ann"] = 4
    assert differences(changed) == differences(changed, exactly_once=False) == ["table totals: 'ann' is 4, not 5"]


def test_records_that_are_missing_or_there_too_often() -> None:
    changed = outcome()
    changed.topics["done"] = [Written(0, b"ann", b"1")] * 3 + [Written(1, b"bob", b"3")]
    assert differences(changed) == ["topic done: 'ann' → '1' is there 2 times too often; 'ann' → '2' is missing"]
    assert differences(changed, exactly_once=False) == ["topic done: 'ann' → '2' is missing"]
    changed = outcome()
    changed.dead_letters["orders.dlq"] = [b"x", b"x"]
    assert differences(changed) == ["dead letters orders.dlq: 'x' is there once too often"]
    assert differences(changed, exactly_once=False) == []


def test_other_headers_and_another_partition_where_they_follow_from_the_app() -> None:
    changed = outcome()
    changed.topics["done"][0] = Written(0, b"ann", b"1", (("attempt", b"2"),))
    changed.topics["done"][2] = Written(0, b"bob", b"3")
    found = differences(changed)
    assert found == [
        "topic done: other headers: 'ann' → '1' has (('attempt', b'2'),)",
        "topic done: other partition: 'bob' → '3' has 0",
    ]
    assert differences(changed, exactly_once=False) == []
    # They differ without faults, too: headers may carry identifiers, and records without a key go anywhere.
    assert Expectation([outcome(), changed]).differences(outcome()) == []
    assert Expectation([outcome(), changed]).unstable == []


def test_another_order_of_a_key() -> None:
    changed = outcome()
    changed.topics["done"][:2] = changed.topics["done"][1::-1]
    assert differences(changed) == ["topic done: other order: record 1 of key 'ann' is '2', not '1'"]


def test_an_order_that_nobody_asks_for_is_not_compared() -> None:
    other = outcome()
    other.topics["done"][:2] = other.topics["done"][1::-1]
    assert Expectation([outcome(), other]).unstable == []
    assert Expectation([outcome()]).differences(other) == []
    assert len(Expectation([outcome(), other], ordered=["done"]).unstable) == 1


def test_a_table_that_differs_without_faults_is_unstable() -> None:
    other = outcome()
    other.tables["totals"]["ann"] = 6
    assert Expectation([outcome(), other, other]).unstable == ["table totals: 'ann' is 6, not 5"]


def test_what_must_never_happen_comes_first() -> None:
    changed = outcome()
    changed.wrong.append("a store is ahead of its changelog")
    assert differences(changed) == ["a store is ahead of its changelog"]


@pytest.mark.parametrize("count", [7, 100])
def test_long_lists_are_cut(count: int) -> None:
    changed = outcome()
    changed.tables["totals"] |= {str(i): i for i in range(count)}
    assert differences(changed)[0].endswith(f"; and {count - 6} more")
