"""How a worker's consumer leaves its group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from anabranch.agents.engine.group_consumer import GroupConsumer
from anabranch.agents.engine.settings import EngineSettings
from anabranch.topics.admin import Admin
from anabranch.topics.cluster import Cluster
from anabranch.topics.memory.memory_cluster import MemoryCluster
from confluent_kafka import Consumer


class _Loud(Cluster):
    """A cluster whose consumers print the steps of their group membership to stderr."""

    def consumer(self, **chosen: object) -> Consumer:
        config = self.config(enable_auto_commit=False, debug="cgrp", **chosen)
        del config["logger"]
        return Consumer(config)


class _Closing:
    """A consumer that notes when it is inside of `close`."""

    def __init__(self, kafka: Any) -> None:
        self._kafka, self.closes = kafka, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kafka, name)

    def close(self) -> None:
        self.closes = True
        self._kafka.close()


@pytest.mark.parametrize("keep_identity", [False, True])
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_no_rebalance_is_left_to_the_close_of_the_client(
    lab: Any, eventually: Callable[..., None], capfd: Any, protocol: str, keep_identity: bool
) -> None:
    #  join ── assigned, the event waits in the client ── close: the event is served before the client closes
    topic, group = lab.topic(4), lab.fresh("group")
    late: list[str] = []
    settings = EngineSettings(session_timeout_ms=6_000, group_protocol=protocol)
    ignore: Any = lambda _: None  # noqa: E731
    cluster = lab.cluster if isinstance(lab.cluster, MemoryCluster) else _Loud(lab.cluster.bootstrap_servers)
    consumer = GroupConsumer(cluster, group, f"{group}-a", settings, ignore, ignore, ignore)
    consumer.kafka = closing = _Closing(consumer.kafka)

    def watched(name: str, serve: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            if closing.closes:
                late.append(name)
            serve(*args)

        return call

    consumer._assigned = watched("assign", consumer._assigned)  # type: ignore[method-assign]
    consumer._revoked = watched("revoke", consumer._revoked)  # type: ignore[method-assign]
    consumer._lost = watched("lost", consumer._lost)  # type: ignore[method-assign]
    consumer.subscribe([topic])
    admin = Admin(lab.cluster)
    eventually(lambda: (admin.members(group) or {}).get(f"{group}-a"), "the group assigns the partitions")
    logged: list[str] = []

    def event_waits() -> bool:
        logged.append(capfd.readouterr().err)
        return isinstance(lab.cluster, MemoryCluster) or "wait-assign-call" in "".join(logged)

    eventually(event_waits, "the client has the answer of the group")
    consumer.close(keep_identity=keep_identity)
    assert consumer.owned == set()
    assert "assign" not in late
    assert keep_identity or not late
