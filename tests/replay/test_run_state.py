"""The topic of runs, with records of other programs in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from anabranch.replay.run_state import RunRegistry, RunState
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Stop


def test_records_that_are_no_state_of_a_run_are_ignored_and_named(
    broker: Cluster, fresh: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    runs = RunRegistry(broker, fresh("runs"))
    runs.create()
    state = RunState(run_id="good", topic="t", specs=("a",), format={}, fingerprint="x", started_ms=1)
    producer = broker.producer()
    for key, value in (
        (b"good", RunRegistry.record(state)[1]),
        (b"deep", b'{"x":' + b"[" * 100_000),
        (b"text", b"\xff"),
        (b"\xff", b"{}"),
    ):
        producer.produce(runs.topic, value, key)
    assert producer.flush(60) == 0
    assert runs.all() == [state]
    assert sorted(line.split()[5] for line in caplog.messages) == ["deep", "text", "\ufffd"]
    with pytest.raises(Stop, match="the state of run deep"):
        runs.read("deep")
