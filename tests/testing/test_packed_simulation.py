"""Simulations whose inputs are packed batches: flows by column end in worlds with faults as in one of plain records."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anabranch
import pytest
from anabranch.agents.flows.combiner import Combiner
from anabranch.replay.testing.faults import Plan
from anabranch.replay.testing.packed_inputs import InputPacker
from anabranch.replay.testing.simulation import Simulation
from anabranch.topics.errors import Usage
from world_programs import PROGRAMS

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from broken_engines import BROKEN_ENGINES  # pyright: ignore[reportMissingImports]

SALES = PROGRAMS["flows"].inputs["sales"]


@pytest.fixture
def by_column(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the batches that are executed by column: `piece`s that wait for a table, and those of a repartition."""
    counts: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(Combiner, name)

        def call(*arguments: Any) -> Any:
            result = original(*arguments)
            counts[name] += result is not None
            return result

        return call

    for name in ("piece", "by_column"):
        monkeypatch.setattr(Combiner, name, counted(name))
    return counts


@pytest.mark.parametrize(("program", "seeds"), [("flows", 5), ("pages", 2), ("bounded", 3)])
def test_worlds_with_packed_inputs_end_as_one_with_plain_inputs(program: str, seeds: int) -> None:
    report = PROGRAMS[program].simulation(seeds=seeds, packed=True).same_as_without_faults()
    assert report.worlds == seeds
    assert sum(report.faults.values()) >= seeds


def test_flows_run_by_column_though_batches_are_small(by_column: Counter[str]) -> None:
    assert PROGRAMS["flows"].simulation().world(1, Plan()).run().wrong == []
    assert not by_column
    assert PROGRAMS["flows"].simulation(packed=True).world(1, Plan()).run().wrong == []
    assert by_column["piece"] > 10
    assert by_column["by_column"] > 3


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("flows", "the changelog lacks a key"),
        ("bank", "a rollback does not deliver again"),
    ],
)
def test_a_broken_engine_is_found_with_packed_inputs(program: str, name: str) -> None:
    inputs = {topic: records[:150] for topic, records in PROGRAMS[program].inputs.items()}
    made = PROGRAMS[program].simulation(seeds=10, packed=True, inputs=inputs)
    assert made.expectation.unstable == []
    with BROKEN_ENGINES[name].broken():
        assert made.run(most_failures=1, shrunk=False).failures


def joining() -> anabranch.App:
    """Flows over two topics."""
    app = anabranch.App("joining", topic_partitions=4)
    for name in ("sales", "returns"):
        app.topic(name, key_type=str).map("price").reduce(sum, f"{name}-sum")
    return app


def test_the_inputs_of_some_topics_can_be_packed(by_column: Counter[str]) -> None:
    priced = [(user, sale) for user, sale in SALES if sale["price"] is not None]
    inputs = {"sales": priced, "returns": priced[:40]}
    for packed, topics in (("returns", 1), (["sales", "returns"], 2)):
        by_column.clear()
        assert Simulation(joining, inputs=inputs, packed=packed).world(1, Plan()).run().wrong == []
        # Each part has rows of at most four partitions.
        assert topics <= by_column["piece"] <= topics * 8 * 4


def test_values_that_are_no_columns_are_packed_as_text(by_column: Counter[str]) -> None:
    app = PROGRAMS["flows"].app
    spaced = [
        (user, b'{"user": "%b", "item": "i1", "price": %d}' % (user.encode(), number))
        for number, (user, _) in enumerate(SALES[:60], 1)
    ]
    assert Simulation(app, inputs={"sales": spaced}, packed=True).world(1, Plan()).run().wrong == []
    assert not by_column


def test_an_app_whose_outcome_depends_on_packing_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    original = InputPacker.packed
    monkeypatch.setattr(InputPacker, "packed", lambda self, records: original(self, [*records, records[-1]]))
    made = Simulation(
        joining, inputs={"sales": [("ann", {"price": 3})], "returns": [("ann", {"price": 1})]}, packed=True
    )
    with pytest.raises(AssertionError, match="plain inputs give another outcome than packed ones:\n") as raised:
        made.same_as_without_faults()
    assert "table sales-sum: 'ann' is 3, not 6" in str(raised.value)


def compacted() -> anabranch.App:
    app = anabranch.App("compacted", topic_partitions=4)
    app.topic("sales", key_type=str, compacting=True).map("price").reduce(sum, "totals")
    return app


@pytest.mark.parametrize(
    ("app", "records", "packed", "text"),
    [
        ("flows", SALES[:3], "sale", "packed='sale': the simulation has no such input"),
        ("flows", [("ann", None)], True, "topic sales: a record without a value"),
        ("compacted", SALES[:3], True, "topic sales is compacted"),
    ],
)
def test_what_cannot_be_packed_is_refused(app: str, records: Any, packed: Any, text: str) -> None:
    program = compacted if app == "compacted" else PROGRAMS[app].app
    with pytest.raises(Usage, match=text):
        Simulation(program, inputs={"sales": records}, seeds=1, packed=packed).same_as_without_faults()
