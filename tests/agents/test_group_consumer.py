"""How a worker's consumer leaves its group."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from anabranch.agents.engine.group_consumer import GroupConsumer
from anabranch.agents.engine.settings import EngineSettings
from anabranch.topics.admin import Admin


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
    lab: Any, eventually: Callable[..., None], protocol: str, keep_identity: bool
) -> None:
    #  join ── assigned, the event waits in the client ── close: the event is served before the client closes
    topic, group = lab.topic(4), lab.fresh("group")
    late: list[str] = []
    settings = EngineSettings(session_timeout_ms=6_000, group_protocol=protocol)
    ignore: Any = lambda _: None  # noqa: E731
    consumer = GroupConsumer(lab.cluster, group, f"{group}-a", settings, ignore, ignore, ignore)
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
    time.sleep(0.3)  # until the client has the answer that the group has given
    consumer.close(keep_identity=keep_identity)
    assert consumer.owned == set()
    assert "assign" not in late
    assert keep_identity or not late
