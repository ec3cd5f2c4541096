"""Random programs over tables, and plain dicts that say what they amount to.

A program is a list of records, a record a list of statements; `run` plays one on tables or on dicts. Programs have keys
of their own, so many run in one agent. In the twin (`Twin`) a record is what it is in Python, and from its end on all
values are copies that nobody else holds.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

__all__ = ["DEFAULTS", "Failed", "Twin", "drawn", "expected", "run"]

DEFAULTS: dict[str, Callable[[], Any]] = {"dicts": dict, "others": dict, "lists": list, "numbers": int}
RECORDS, STATEMENTS = 6, 4

Record = list[list[Any]]


class Failed(Exception):
    """What a record raises that is meant to fail."""


def drawn(seed: int, *, failing: bool) -> list[Record]:
    """The program of a seed; with `failing`, some of its records raise in the end."""
    chance = random.Random(seed)
    records: list[Record] = []
    for _ in range(chance.randint(2, RECORDS)):
        record = [_statement(chance) for _ in range(chance.randint(1, STATEMENTS))]
        if failing and chance.random() < 0.3:
            record.append(["raise"])
        records.append(record)
    return records


def _statement(chance: random.Random) -> list[Any]:
    k, other = chance.choice("ab"), chance.choice("ab")
    dicts = chance.choice(["dicts", "others"])
    table = chance.choice([dicts, dicts, "lists", "numbers"])
    value = {"lists": [1], "numbers": chance.randint(0, 2)}.get(table, {"x": chance.choice([1, [2], {}])})
    sub = chance.choice("xy")
    return chance.choice(
        [
            ["count", dicts, k, sub],
            ["count", dicts, k, sub],
            ["without", dicts, k, sub],
            ["nested", dicts, k, sub],
            ["append", "lists", k, chance.randint(0, 2)],
            ["append", "lists", k, chance.randint(0, 2)],
            ["drop", "lists", k],
            ["add", "numbers", k, chance.randint(-1, 1)],
            ["set", table, k, value],
            ["delete", table, k],
            ["pop", table, k],
            ["default", table, k, value],
            ["get", table, k],
            ["look", table, k],
            ["there", table, k],
            ["again", table, k],
            ["share", table, k, other],
            ["move", "dicts", "others", k],
            ["keys", table],
        ]
    )


def run(record: Record, tables: Any, prefix: str) -> list[Any]:
    """Play a record; what it saw.

    Raises:
        Failed: it is meant to fail.
    """
    return [copy.deepcopy(_play(*statement, tables=tables, prefix=prefix)) for statement in record]


def _play(what: str, *args: Any, tables: Any, prefix: str) -> Any:
    if what == "raise":
        raise Failed("meant to")
    table, k = tables[args[0]], prefix + str(args[1] if what not in ("keys", "move") else "")
    match what:
        case "count":
            table[k][args[2]] = table[k][args[2]] + 1 if isinstance(table[k].get(args[2]), int) else 1
        case "without":
            table[k].pop(args[2], None)
        case "nested":
            inner = table[k].setdefault(args[2], {})
            if isinstance(inner, dict):
                inner["n"] = inner.get("n", 0) + 1
        case "append":
            table[k].append(args[2])
        case "drop":
            return table[k].pop() if table[k] else None
        case "add":
            table[k] += args[2]
        case "set":
            table[k] = copy.deepcopy(args[2])
        case "delete":
            if k in table:
                del table[k]
        case "pop":
            return table.pop(k, None)
        case "default":
            return table.setdefault(k, copy.deepcopy(args[2]))
        case "get":
            return table.get(k)
        case "look":
            return table[k]
        case "there":
            return k in table
        case "again":
            value = table[k]
            table[k] = value
        case "share":
            table[prefix + args[2]] = table[k]
        case "move":
            tables[args[1]][prefix + args[2]] = table[prefix + args[2]]
        case "keys":
            return sorted(key.removeprefix(prefix) for key in table if key.startswith(prefix))
    return None


class Twin(dict[str, Any]):
    """A table as a dict. A default that was only looked at is not in it."""

    def __init__(self, default: Callable[[], Any]) -> None:
        super().__init__()
        self._default = default
        self._lent: dict[str, Any] = {}

    def __missing__(self, key: str) -> Any:
        if key not in self._lent:
            self._lent[key] = self._default()
        return self._lent[key]

    def settle(self) -> None:
        """Defaults that were changed in place are values."""
        for key, value in list(self._lent.items()):
            if value != self._default() and not dict.__contains__(self, key):
                self[key] = value

    def end_record(self) -> None:
        """Values are private copies from here on."""
        self.settle()
        self._lent.clear()
        for key, value in self.items():
            dict.__setitem__(self, key, copy.deepcopy(value))

    def __contains__(self, key: object) -> bool:
        self.settle()
        return dict.__contains__(self, key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 (this is `get`)

    def pop(self, key: str, *default: Any) -> Any:
        self.settle()
        self._lent.pop(key, None)
        return super().pop(key, *default)

    def __delitem__(self, key: str) -> None:
        self.settle()
        self._lent.pop(key, None)
        super().__delitem__(key)

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._lent.pop(key, None)

    def __iter__(self) -> Any:
        self.settle()
        return super().__iter__()


def expected(program: list[Record]) -> tuple[dict[str, dict[str, Any]], list[Any]]:
    """What a program leaves in the tables, and what its records saw; None for those that failed."""
    tables = {name: Twin(default) for name, default in DEFAULTS.items()}
    seen: list[Any] = []
    for record in program:
        before = copy.deepcopy({name: dict(table) for name, table in tables.items()})
        try:
            seen.append(run(record, tables, ""))
        except Failed:
            seen.append(None)
            for name, table in tables.items():
                dict.clear(table)
                table._lent.clear()
                dict.update(table, before[name])
        for table in tables.values():
            table.end_record()
    return {name: dict(table) for name, table in tables.items()}, seen
