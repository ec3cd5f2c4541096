"""The topic that a replay writes to: partitions, settings that would lose records, dead letters of bad lines."""

from __future__ import annotations

import pytest
from anabranch.replay.pipeline.partitioning import last_of_each, record_partitions
from anabranch.replay.sources.source_record import BadLine
from anabranch.replay.target_topic import TargetTopic
from anabranch.topics.dead_letter import dead_letter
from anabranch.topics.errors import Stop
from anabranch.topics.partitioners import HashPartitioner
from hypothesis import given
from hypothesis import strategies as st
from line_files import refusal

DAY_MS = 86_400_000


@given(st.lists(st.one_of(st.none(), st.binary(max_size=9)), min_size=1), st.integers(1, 9), st.integers(0, 99))
def test_keys_go_where_murmur2_says_and_others_in_turn(keys: list[bytes | None], partitions: int, sent: int) -> None:
    places = record_partitions([(key, b"", 0, None, None) for key in keys], HashPartitioner(partitions), sent)
    for i, (key, partition) in enumerate(zip(keys, places, strict=True)):
        assert partition == ((sent + i) % partitions if key is None else HashPartitioner(partitions).partition(key))
    last = last_of_each(places)
    assert all(places[i] == p and p not in places[i + 1 :] for p, i in last.items())
    assert set(last) == set(places)


DEFAULTS = {"retention.ms": "604800000", "message.timestamp.after.max.ms": "3600000", "cleanup.policy": "delete"}


@pytest.mark.parametrize(
    ("config", "age_ms", "setting"),
    [
        (DEFAULTS, 8 * DAY_MS, "retention.ms=-1"),
        (DEFAULTS, -2 * 3_600_000, "message.timestamp.after.max.ms"),
        ({"message.timestamp.type": "LogAppendTime"}, 0, "message.timestamp.type=CreateTime"),
        ({"message.timestamp.before.max.ms": "1000"}, 2_000, "message.timestamp.before.max.ms"),
    ],
)
def test_a_topic_that_would_not_keep_records_is_refused_with_the_setting(
    config: dict[str, str], age_ms: int, setting: str
) -> None:
    now_ms = 1_700_000_000_000
    target = TargetTopic.of("t", config)
    assert setting in refusal(lambda: target.check_times(now_ms - age_ms, now_ms - age_ms, now_ms), Stop)


def test_a_topic_that_keeps_them_is_taken() -> None:
    now_ms = 1_700_000_000_000
    TargetTopic.of("t", DEFAULTS).check_times(now_ms - 6 * DAY_MS, now_ms, now_ms)
    TargetTopic.of("t", {"retention.ms": "-1"}).check_times(1, now_ms, now_ms)
    assert TargetTopic.of("t", DEFAULTS).warnings() == []


def test_a_compacted_topic_wants_keys_and_warns() -> None:
    target = TargetTopic.of("t", {"cleanup.policy": "compact"})
    target.check_keys(without_key=False)
    assert "cleanup.policy=delete" in refusal(lambda: target.check_keys(without_key=True), Stop)
    assert "compacted" in target.warnings()[0]


def test_a_dead_letter_says_only_what_is_known() -> None:
    letter = dead_letter(
        topic="t", reason="line", error="x" * 2_000, key=None, value=b"\xff", headers=[("h", b"1")], source="a.txt:3"
    )
    assert letter[:3] == ("t.dlq", None, b"\xff")
    headers = dict(letter.headers)
    assert headers["h"] == b"1"
    assert headers["anabranch-source"] == b"a.txt:3"
    assert len(headers["anabranch-error"].decode()) == 1_000
    assert "anabranch-offset" not in headers


def test_a_bad_line_knows_where_it_stood() -> None:
    assert BadLine("a.txt", 7, "why", b"x").position == "a.txt:7"
