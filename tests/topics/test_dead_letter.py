"""A dead letter is the record itself, with the reason and the origin in its headers."""

from __future__ import annotations

from anabranch.topics.dead_letter import MAX_ERROR_CHARACTERS, dead_letter, dead_letter_topic, read_headers


def test_the_topic_is_the_records_with_an_ending() -> None:
    assert dead_letter_topic("orders") == "orders.dlq"


def test_key_and_value_are_the_records_own_bytes_and_its_headers_come_first() -> None:
    letter = dead_letter(
        topic="orders",
        key=b"\x00",
        value=b"\xff not JSON",
        headers=[("trace", b"\x01"), ("trace", b"\x02"), ("none", None)],
        reason="decode",
        error="DecodeError: no",
        source="orders[3]@7",
        partition=3,
        offset=7,
        timestamp_ms=1_357_016_400_123,
        agent="shop.total",
        app="shop",
        app_version=3,
        attempts=4,
    )
    assert (letter.topic, letter.key, letter.value) == ("orders.dlq", b"\x00", b"\xff not JSON")
    assert letter.headers == [
        ("trace", b"\x01"),
        ("trace", b"\x02"),
        ("none", None),
        ("anabranch-reason", b"decode"),
        ("anabranch-error", b"DecodeError: no"),
        ("anabranch-source", b"orders[3]@7"),
        ("anabranch-topic", b"orders"),
        ("anabranch-partition", b"3"),
        ("anabranch-offset", b"7"),
        ("anabranch-timestamp-ms", b"1357016400123"),
        ("anabranch-agent", b"shop.total"),
        ("anabranch-app", b"shop"),
        ("anabranch-app-version", b"3"),
        ("anabranch-attempts", b"4"),
    ]
    assert read_headers(letter.headers) == (
        [("trace", b"\x01"), ("trace", b"\x02"), ("none", None)],
        {name.removeprefix("anabranch-"): (value or b"").decode() for name, value in letter.headers[3:]},
    )


def test_of_a_letter_of_a_letter_the_last_headers_are_its_own() -> None:
    first = dead_letter(topic="orders", key=None, value=None, reason="decode", error="a", headers=[("mine", b"1")])
    second = dead_letter(topic=first.topic, key=None, value=None, reason="agent", error="b", headers=first.headers)
    headers, ours = read_headers(second.headers)
    assert (headers, ours["error"]) == (list(first.headers), "b")
    assert read_headers([("trace", b"x")]) == ([("trace", b"x")], {})


def test_only_what_is_known_is_said_and_nought_is_known() -> None:
    letter = dead_letter(topic="orders", key=None, value=None, reason="line", error="", partition=0, offset=0)
    assert (letter.key, letter.value) == (None, None)
    assert [name for name, _ in letter.headers] == [
        "anabranch-reason",
        "anabranch-error",
        "anabranch-topic",
        "anabranch-partition",
        "anabranch-offset",
    ]


def test_a_long_error_is_cut() -> None:
    letter = dead_letter(topic="orders", key=None, value=None, reason="agent", error="é" * 5000)
    (error,) = (value for name, value in letter.headers if name == "anabranch-error")
    assert error is not None
    assert error.decode() == "é" * MAX_ERROR_CHARACTERS


def test_an_error_that_quotes_broken_text_is_still_a_dead_letter() -> None:
    # json.loads('"\\ud800"') gives such text, and errors quote it.
    letter = dead_letter(topic="orders", key=None, value=b"", reason="agent", error="ValueError: \ud800")
    assert dict(letter.headers)["anabranch-error"]
