"""Control records: their form, the topics in which they count, and copies that have no such header."""

from __future__ import annotations

import pytest
from anabranch.topics.control_records import CONTROL_KEY, ControlRecord, carries_control, decode, is_control, records_of
from anabranch.topics.dead_letter import dead_letter
from anabranch.topics.errors import BadRecord
from anabranch.topics.headers import CONTROL_HEADER, copied_headers, without_control
from confluent_kafka import Message

MARK = ControlRecord("mark", {"of": 4, "t": {"orders:0": 1_357_000_000_000, "orders:1": "end"}, "idle": []})


def message(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]] | None = None) -> Message:
    return Message(topic="t", partition=0, offset=0, key=key, value=value, headers=headers)


CONTROL = message(CONTROL_KEY, MARK.encoded(), list(MARK.headers))
ORDINARY = [
    message(b"k", b"v"),
    message(None, None),
    message(CONTROL_KEY, b"v"),  # without the header
    message(b"k", b"v", [(CONTROL_HEADER, b"mark")]),  # with another key
]


def test_a_control_record_is_told_by_key_and_header_and_says_what_it_said() -> None:
    assert is_control(CONTROL)
    assert decode(CONTROL) == MARK
    assert not any(map(is_control, ORDINARY))


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x91" * 5_000, None])
def test_one_that_cannot_be_read_is_a_bad_record(value: bytes | None) -> None:
    with pytest.raises(BadRecord, match="a control record cannot be read"):
        decode(message(CONTROL_KEY, value, [(CONTROL_HEADER, b"mark")]))
    with pytest.raises(BadRecord):
        ControlRecord.parsed(b"\xff", MARK.encoded())


@pytest.mark.parametrize(
    ("topic", "group", "counts"),
    [
        ("shop-totals-repartition", "shop", True),
        ("shop-totals-repartition", None, True),
        ("shop-totals-repartition", "bank", False),
        ("shopping-totals-repartition", "shop", False),
        ("shop-run-1f0c-orders", "shop-run-1f0c", True),
        ("shop-run-my-own-orders", "shop-run-my-own", True),
        ("shop-run-1f0c-orders", None, True),
        ("shop-run-1f0c-orders", "shop", False),
        ("orders", "shop", False),
        ("orders", None, False),
        ("shop-totals-changelog", "shop", False),
        ("orders.dlq", None, False),
    ],
)
def test_they_count_only_in_topics_that_an_app_has_created(topic: str, group: str | None, counts: bool) -> None:
    assert carries_control(topic, group) is counts


def test_records_without_the_control_records_are_the_same_list_where_there_are_none() -> None:
    plain = ORDINARY[:2]
    assert records_of(plain) is plain
    assert records_of(ORDINARY) == ORDINARY
    assert records_of([CONTROL, *ORDINARY, CONTROL]) == ORDINARY
    assert records_of([CONTROL]) == []


def test_copies_have_no_control_header() -> None:
    own = [("trace", b"1"), ("trace", None)]
    both = [own[0], (CONTROL_HEADER, b"end"), own[1]]
    assert without_control(own) is own
    assert without_control(both) == own
    messages = [message(b"k", b"v", headers) for headers in (own, None, [own[0], (CONTROL_HEADER, b"end")], [both[1]])]
    assert copied_headers(messages) == [own, None, own[:1], None]
    letter = dead_letter(topic="t", key=b"k", value=b"v", reason="agent", error="e", headers=both)
    assert [name for name, _ in letter.headers][:3] == ["trace", "trace", "anabranch-reason"]
