"""Random flows give what plain Python says, wherever commits fall, plain and packed, by row and by column.

`ANABRANCH_FUZZ_S` is how many seconds to go on (`make faults` gives it many), `ANABRANCH_FUZZ_SEED` where to begin. A
failing case prints its seed and the smallest case that still fails.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec
import pytest
from anabranch.agents.flows import partial_records
from anabranch.agents.flows.combiner import small_batches_by_column
from anabranch.topics.partitioners import HashPartitioner
from offline_app import PARTITIONS, Agents, Plain, packed
from random_flows import SCHEMA, Case, drawn

SECONDS = float(os.environ.get("ANABRANCH_FUZZ_S", "4"))
FEWEST_PACKED = partial_records.LEAST_ROWS
SEED = int(os.environ.get("ANABRANCH_FUZZ_SEED", "1"))

Epochs = list[list[list[Plain]]]


def runs_of(log: Sequence[Plain], chance: random.Random, most: int) -> Iterator[list[Plain]]:
    """The records of a log in runs; a packed one is a run of its own."""
    for is_packed, records in groupby(log, key=lambda record: bool(record.headers())):
        yield from pieces(chance, list(records), 1 if is_packed else most)


def pieces(chance: random.Random, items: Sequence[Any], most: int) -> Iterator[list[Any]]:
    items = list(items)
    while items:
        size = chance.randint(1, most)
        yield items[:size]
        items = items[size:]


def handed(way: str, case: Case, chance: random.Random) -> dict[int, Epochs]:
    """The records of each partition: runs of epochs. `way` is plain, packed or both; then one epoch, each, or cut."""
    form, cut = way.split(", ")
    of: dict[int, list[Any]] = defaultdict(list)
    for number, row in enumerate(case.rows):
        key = None if row is None else row["__key"]
        place = number % PARTITIONS if key is None else HashPartitioner(PARTITIONS).partition(key.encode())
        of[place].append((number, row))
    made: dict[int, Epochs] = {}
    for place, found in of.items():
        runs: list[list[Plain]] = []
        for run in pieces(chance, found, 1 if cut == "each" else 6):
            rows = [row for _, row in run if row is not None]
            if rows and form != "plain" and (form == "packed" or chance.random() < 0.5):
                runs.append([packed(run[0][0], rows, SCHEMA, "__key")])
            else:
                runs.append([plain(number, row) for number, row in run])
        most = len(runs) if cut == "one epoch" else 1 if cut == "each" else 3
        made[place] = [runs] if cut == "one epoch" else list(pieces(chance, runs, most))
    return made


def plain(offset: int, row: dict[str, Any] | None) -> Plain:
    if row is None:
        return Plain(offset, b"k0", None)
    key = None if row["__key"] is None else row["__key"].encode()
    return Plain(offset, key, msgspec.json.encode({name: row[name] for name in row if name != "__key"}))


WAYS = [f"{form}, {cut}" for form in ("plain", "packed", "both") for cut in ("one epoch", "each", "cut")]


def wrong(case: Case) -> str:
    """What differs from what Python says, in whichever way; empty if nothing does."""
    expected, given_up = case.expected()
    for way in WAYS:
        chance = random.Random(case.seed)
        agents = Agents(case.declare)
        partial_records.LEAST_ROWS = 1 if chance.random() < 0.7 else FEWEST_PACKED
        try:
            for partition, epochs in handed(way, case, chance).items():
                agents.run("in", partition, epochs)
            for topic, partitions in list(agents.topics.items()):
                for partition, log in partitions.items():
                    cut = way.split(", ")[1]
                    runs = list(runs_of(log, chance, 1 if cut == "each" else 5))
                    agents.run(topic, partition, [runs] if cut == "one epoch" else [[run] for run in runs])
        except Exception as exc:
            return f"{way}: {type(exc).__name__}: {exc}"
        table = agents.app.tables["t"]
        found: dict[Any, Any] = {}
        for content in agents.contents("t"):
            for key, value in content.items():
                name = table.key_codec.decode(key)
                if name in found:
                    return f"{way}: key {name!r} in two partitions"
                found[name] = shown(table.value_codec.decode(value))
                if case.ends[0][:2] == ("reduce", "list"):
                    found[name].sort(key=str)  # lists are joined in any order
        reasons = [str(error) for _, _, error in agents.committed_letters]
        if bits(found) != bits(expected):
            return f"{way}: {found}\n  instead of {expected}\n  {reasons}"
        letters = Counter(
            msgspec.json.decode(message.value())["id"] if topic == "in" else topic
            for topic, message, _ in agents.committed_letters
        )
        if letters != Counter(given_up):
            return f"{way}: letters {letters}\n  instead of {given_up}\n  {reasons}"
    return ""


def shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: part for name, part in value.items() if not name.startswith("_")}
    return value


def bits(content: dict[Any, Any]) -> list[Any]:
    """What tells 1 from 1.0; keys by equality, as tables have them."""
    return sorted((hash(key), isinstance(key, str), msgspec.json.encode(value)) for key, value in content.items())


def smallest(case: Case) -> Case:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for less in case.smaller():
            if less.rows and wrong(less):
                case = less
                break
        else:
            break
    return case


@pytest.mark.timeout(SECONDS + 180)
def test_random_flows_give_what_python_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_records, "LEAST_ROWS", 1)  # undone at the end
    deadline = time.monotonic() + SECONDS
    seed = SEED
    with small_batches_by_column():
        while time.monotonic() < deadline:
            case = drawn(seed)
            if wrong(case):
                case = smallest(case)
                pytest.fail(f"{case}\n{wrong(case)}\nagain: ANABRANCH_FUZZ_SEED={seed}")
            seed += 1
    print(f"{seed - SEED} cases")
