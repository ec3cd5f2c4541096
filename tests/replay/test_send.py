"""`anabranch send` reads bytes: what is no UTF-8 is sent as it is."""

from __future__ import annotations

import io
from typing import Any

import pytest
from anabranch.replay.cli import send
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Usage


def test_lines_and_arguments_that_are_no_utf_8_are_sent_byte_for_byte(
    broker: Cluster, fresh: Any, drain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, lines = fresh(), b"k\xff,v\r\xfe\r\nk,\xc3\xa9\n"
    send.named_topic(broker, topic, None, create_partitions=1)
    # In a UTF-8 locale, standard input is strict.
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8", "strict"))
    pairs = send._pairs(None, None, ",", False)
    send._produce(broker, topic, pairs, None, send._headers(("trace=\udcff",)), None)
    sent = [(message.key(), message.value(), message.headers()) for message in drain(topic)]
    header = [("trace", b"\xff")]
    assert sent == [(b"k\xff", b"v\r\xfe", header), (b"k", b"\xc3\xa9", header)]


def test_without_standard_input_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert list(send._pairs(None, None, None, False)) == []


def test_a_header_name_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(Usage, match="cannot be printed"):
        send._headers(("\udcff=a",))
