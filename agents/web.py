"""Tables over HTTP: what this worker holds, as it is committed.

| path | answer |
| --- | --- |
| `/tables/` | names, help, number of keys here (of tables on disk an estimate) |
| `/tables/<table>/` | the same of one table, its partitions here, and the first 100 pairs |
| `/tables/<table>/<key>/` | the value as JSON; 404 where this worker has no such key, also if the table has a default |

A key of the path is tried as it stands and, where keys are JSON, as JSON: `/tables/counts/7/`.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import msgspec
from faust import web

from ..topics.errors import BadRecord
from .table import Table

__all__ = ["blueprint"]

MAX_PAIRS = 100


class _View(web.View):
    def table(self, name: str) -> Table:
        """The table, or 404."""
        try:
            return self.app.tables[name]  # pyright: ignore[reportReturnType]
        except KeyError:
            raise self.NotFound(f"no table {name}") from None

    def answer(self, value: Any) -> Any:
        """JSON of anything a table can hold."""
        if hasattr(value, "asdict"):  # a Faust record
            value = value.asdict()
        return self.bytes(msgspec.json.encode(value, enc_hook=_plain), content_type="application/json")


class Tables(_View):
    """All tables."""

    async def get(self, request: Any) -> Any:
        """GET."""
        del request
        return self.answer([_summary(table) for table in self.app.tables.values()])


class OneTable(_View):
    """One table."""

    async def get(self, request: Any, name: str) -> Any:
        """GET."""
        del request
        table = self.table(name)
        pairs = [pair for state in table.states.values() for pair in islice(state.committed_items(), MAX_PAIRS)]
        shown = [(key, table.plain(value)) for key, value in pairs[:MAX_PAIRS]]
        return self.answer({**_summary(table), "partitions": sorted(table.states), "pairs": shown})


class OneKey(_View):
    """One key."""

    async def get(self, request: Any, name: str, key: str) -> Any:
        """GET."""
        del request
        table = self.table(name)
        for candidate in _candidates(key):
            try:
                if candidate in table:
                    return self.answer(table.plain(table[candidate]))
            except BadRecord:
                continue  # no key of this table looks like that
        raise self.NotFound(f"table {name} has no key {key} on this worker")


def blueprint(name: str) -> web.Blueprint:
    """The views, to be put under a prefix."""
    made = web.Blueprint(name)
    made.route("/", name="list")(Tables)
    made.route("/{name}/", name="table")(OneTable)
    made.route("/{name}/{key}/", name="key")(OneKey)
    return made


def _summary(table: Any) -> dict[str, Any]:
    keys = sum(state.about() for state in table.states.values())
    return {"table": table.name, "help": table.help, "keys": keys}


def _candidates(key: str) -> list[Any]:
    try:
        decoded = msgspec.json.decode(key)
    except msgspec.DecodeError:
        return [key]
    return [key, tuple(decoded) if isinstance(decoded, list) else decoded] if not isinstance(decoded, dict) else [key]


def _plain(value: Any) -> Any:
    return value.asdict() if hasattr(value, "asdict") else str(value)
