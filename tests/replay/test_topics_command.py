"""`anabranch topics` while other programs create and delete topics."""

from __future__ import annotations

from typing import Any

import pytest
from anabranch.replay.cli import topics
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.errors import AnabranchError
from anabranch.topics.memory.memory_kafka import MemoryKafka


def test_a_topic_that_is_deleted_meanwhile_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, asked = MemoryKafka().cluster(), []
    Admin(cluster).create([TopicSpec("kept", 3), TopicSpec("gone", 1)])
    spans = Admin.spans

    def late(self: Admin, partitions: Any) -> Any:
        if not asked:
            asked.append(Admin(cluster).delete(["gone"]))
        return spans(self, partitions)

    monkeypatch.setattr(Admin, "spans", late)
    monkeypatch.setattr(topics, "_PATIENCE_S", 0.0)
    topics.list_topics(cluster)
    printed = capsys.readouterr().out
    assert asked
    assert "kept" in printed
    assert "gone" not in printed


def test_an_error_that_has_another_cause_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = MemoryKafka().cluster()
    Admin(cluster).create([TopicSpec("kept", 3)])

    def refused(self: Admin, partitions: Any) -> Any:
        raise AnabranchError("no")

    monkeypatch.setattr(Admin, "spans", refused)
    with pytest.raises(AnabranchError, match="no"):
        topics.list_topics(cluster)
