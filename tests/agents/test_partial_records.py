"""Partial results in a repartition topic: plain records, or rows of packed batches, which are the same to the agent."""

from __future__ import annotations

from typing import Any

import pytest
from anabranch import App
from anabranch.agents.engine.rejected_records import Rules
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.flows import partial_records as module
from anabranch.agents.flows.partial_records import LEAST_ROWS, partial_records
from anabranch.agents.runtime import runtime_of
from anabranch.topics.output import Output
from anabranch.topics.packed import Packed, PackedLimits, is_packed
from anabranch.topics.partitioners import HashPartitioner, RangePartitioner

pytestmark = pytest.mark.memory_suffices(
    "test_sums_of_many_keys_travel_packed_and_those_of_few_as_records",
)

PARTITIONS = 3


@pytest.fixture
def made() -> Any:
    """An app with a topic of three partitions that the engine knows."""

    def make() -> Any:
        app = App("partials", topic_partitions=PARTITIONS)
        runtime_of(app).engine.rebalance.partition_counts = {"between": PARTITIONS}
        return app.topic("between")

    return make


def encoded(count: int, size_bytes: int = 4) -> tuple[list[bytes | None], list[bytes | None]]:
    return [b"k%d" % n for n in range(count)], [b"%0*d" % (size_bytes, n) for n in range(count)]


def opened(outputs: list[Output]) -> list[tuple[int, bytes | None, bytes | None, int | None]]:
    """Partition, key, value and time of each partial result, as the agent behind the topic sees it."""
    found: list[tuple[int, bytes | None, bytes | None, int | None]] = []
    for _, value, key, partition, at_ms, headers in outputs:
        if headers is None:
            assert key is not None
            found.append((HashPartitioner(PARTITIONS).partition(key), key, value, at_ms))
        else:
            assert is_packed(headers) and key is None and value is not None
            packed = Packed(value, at_ms or 0)
            rows = zip(packed.keys(), packed.values(), packed.times_ms(), strict=True)
            found += [(partition, *row) for row in rows]
    return found


@pytest.mark.parametrize("size_bytes", [4, 200])
def test_each_partial_result_has_the_partition_of_its_key_packed_or_not(made, size_bytes: int) -> None:
    keys, values = encoded(4_000, size_bytes)
    outputs = partial_records(made(), keys, values, 7)
    expected = [
        (HashPartitioner(PARTITIONS).partition(key), key, value, 7)
        for key, value in zip(keys, values, strict=True)
        if key is not None
    ]
    assert sorted(map(repr, opened(outputs))) == sorted(map(repr, expected))
    assert len(outputs) < 40
    assert max(output.size_bytes for output in outputs) < module._BATCH_BYTES + 4_096


def test_large_partial_results_are_plain_records(made) -> None:
    keys, values = encoded(3 * LEAST_ROWS, 2_000)
    assert all(output.headers is None for output in partial_records(made(), keys, values, 7))


@pytest.mark.parametrize("why", ["few", "an empty key", "a range partitioner", "a refusal", "unknown"])
def test_partial_results_are_plain_records_where_packed_ones_might_be_refused(made, why: str) -> None:
    topic = made()
    runtime = runtime_of(topic.app)
    keys, values = encoded(LEAST_ROWS - 1 if why == "few" else 2_000)
    if why == "an empty key":
        keys[5] = b""
    if why == "a range partitioner":
        runtime.partitioners["between"] = RangePartitioner((b"k3", b"k6"))
    if why == "a refusal":
        runtime.context.failures.rules = {"between": Rules(1_000)}
    if why == "unknown":
        runtime.engine.rebalance.partition_counts = {}
    outputs = partial_records(topic, keys, values, None)
    assert [(output.key, output.value, output.headers) for output in outputs] == [
        (key, value, None) for key, value in zip(keys, values, strict=True)
    ]


@pytest.mark.parametrize("limits", [None, PackedLimits(rows=20, size_bytes=100)])
async def test_sums_of_many_keys_travel_packed_and_those_of_few_as_records(
    lab, table_of, drain, monkeypatch, limits: PackedLimits | None
) -> None:
    """Limits are about the batches of others: a worker that sets them reads what its fellows have packed."""
    monkeypatch.setattr(module, "LEAST_ROWS", 8)  # however the records are cut into epochs
    topic = lab.topic(2)
    app = lab.app(lab.fresh("app"), topic_partitions=2, settings=EngineSettings(packed=limits))
    app.topic(topic, value_type=dict).key_by("k", "n").reduce(sum, "totals")
    between = f"{app.conf.id}-totals-repartition"
    many = [{"k": f"key-{n % 2_000}", "n": n} for n in range(4_000)]
    few = [{"k": f"key-{n}", "n": 1_000_000} for n in range(5)]
    expected = {f"key-{n}": 2 * n + 2_000 + 1_000_000 * (n < 5) for n in range(2_000)}
    lab.produce(topic, [(str(n), value) for n, value in enumerate(many)])
    async with lab.running(app):
        await lab.until(lambda: sum(table_of(app, "totals").values()) == sum(range(4_000)), "the many")
        lab.produce(topic, few)
        await lab.until(lambda: table_of(app, "totals") == expected, "all")
    records = drain(between)
    assert any(is_packed(record.headers()) for record in records)
    assert any(not is_packed(record.headers()) for record in records)


async def test_a_row_that_cannot_be_merged_goes_to_the_dead_letters_alone(lab, table_of, drain, monkeypatch) -> None:
    monkeypatch.setattr(module, "LEAST_ROWS", 8)

    def joined(a: int, b: int) -> int:
        if {a, b} == {1, 1_000}:
            raise ValueError("not these two")
        return a + b

    topic, app = lab.topic(1), lab.app(lab.fresh("app"), topic_partitions=1)
    app.topic(topic, value_type=dict).key_by("k", "n").reduce(joined, "totals")
    between = f"{app.conf.id}-totals-repartition"
    lab.produce(topic, [{"k": f"key-{n}", "n": 1} for n in range(600)])
    async with lab.running(app):
        await lab.until(lambda: len(table_of(app, "totals")) == 600, "the first round")
        lab.produce(topic, [{"k": f"key-{n}", "n": 1_000 if n == 7 else 1} for n in range(600)])
        expected = {f"key-{n}": 1 if n == 7 else 2 for n in range(600)}
        await lab.until(lambda: table_of(app, "totals") == expected, "the second round")
    assert any(is_packed(record.headers()) for record in drain(between))
    letters = drain(f"{between}.dlq")
    assert [(letter.key(), letter.value()) for letter in letters] == [(b"key-7", b'["key-7",1000]')]
