"""Tables over HTTP, as they are committed: what this worker holds; for a single key, what its owner holds.

| path | answer |
| --- | --- |
| `/restore/` | whether tables are restored from their changelogs, and how far that is: `progress.py` |
| `/tables/` | names, help, number of keys here (of tables on disk an estimate) |
| `/tables/<table>/` | the same of one table, its partitions here, and the first 100 pairs |
| `/tables/<table>/<key>/` | the value as JSON, from the worker that has the key (`routing.py`) |

A key's answer is 404 where there is no such key, also if the table has a default, and 503 with the reason while nobody
can answer, as during a rebalance.

A key of the path is tried as it stands and, where keys are JSON, as JSON: `/tables/counts/7/`.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, cast

import msgspec
from faust import web
from faust.exceptions import SameNode

from ...topics.errors import BadRecord
from ..tables.globaltable import GlobalTable
from ..tables.state import ABSENT
from ..tables.table import Table

__all__ = ["blueprint", "restore"]

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


class Restore(_View):
    """How far restoring the tables is."""

    async def get(self, request: Any) -> Any:
        """GET."""
        del request
        progress = self.app.engine.restoring  # pyright: ignore[reportAttributeAccessIssue]
        return self.answer({"restoring": progress is not None, **(progress.facts() if progress is not None else {})})


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
        pairs = [pair for state in table.held() for pair in islice(state.committed_items(), MAX_PAIRS)]
        shown = [(key, table.plain(value)) for key, value in pairs[:MAX_PAIRS]]
        return self.answer({**_summary(table), "partitions": sorted(table.states), "pairs": shown})


class OneKey(_View):
    """One key."""

    async def get(self, request: Any, name: str, key: str) -> Any:
        """GET."""
        table = self.table(name)
        # Here first: where an agent's keys are not those of its records, the partition does not follow from the key.
        for candidate in _candidates(key):
            try:
                if self.serves(table, candidate):
                    return self.answer(table.plain(table[candidate]))
            except BadRecord:
                continue  # no key of this table looks like that
        try:
            return await self.app.router.route_req(name, key, self.web, request)
        except SameNode:
            raise self.NotFound(f"table {name} has no key {key}") from None

    def serves(self, table: Table, key: Any) -> bool:
        """Whether the key is here, in a partition that is restored."""
        if isinstance(table, GlobalTable):
            return key in table
        engine = cast(Any, self.app).engine
        return any(
            engine.serves(partition) and state.committed(key) is not ABSENT
            for partition, state in list(table.states.items())
        )


def restore() -> web.Blueprint:
    """`/restore/`, without a prefix."""
    made = web.Blueprint("restore")
    made.route("/restore/", name="restore")(Restore)
    return made


def blueprint(name: str) -> web.Blueprint:
    """The views, to be put under a prefix."""
    made = web.Blueprint(name)
    made.route("/", name="list")(Tables)
    made.route("/{name}/", name="table")(OneTable)
    made.route("/{name}/{key}/", name="key")(OneKey)
    return made


def _summary(table: Any) -> dict[str, Any]:
    keys = sum(state.about() for state in table.held())
    return {"table": table.name, "help": table.help, "keys": keys}


def _candidates(key: str) -> list[Any]:
    try:
        decoded = msgspec.json.decode(key)
    except msgspec.DecodeError:
        return [key]
    return [key, tuple(decoded) if isinstance(decoded, list) else decoded] if not isinstance(decoded, dict) else [key]


def _plain(value: Any) -> Any:
    return value.asdict() if hasattr(value, "asdict") else str(value)
