"""Tables over HTTP, as they are committed: what this worker holds; for a single key, what its owner holds.

| path | answer |
| --- | --- |
| `/restore/` | whether tables are restored from their changelogs, and how far that is: `progress.py` |
| `/tables/` | names, help, number of keys here (of tables on disk an estimate) |
| `/tables/<table>/` | the same of one table, its partitions here, and the first 100 pairs, 4 MiB at most |
| `/tables/<table>/<key>/` | the value as JSON, from the worker that has the key (`routing.py`) |

A key's answer is 404 where there is no such key, also if the table has a default, and 503 with the reason while nobody
can answer, as during a rebalance.

A key of the path is tried as text and as the table's keys are kept, which is JSON unless a type is declared:
`/tables/counts/7/`, and `/tables/counts/["a","b"]/` for a tuple, both percent-encoded.

A key that is in several partitions of this worker has no one value: 409, unless the table is declared `local`. Of such
a table a key's answer, by this worker alone, is an object of partitions and values; pairs come with their partitions.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, cast

import msgspec
from faust import web
from faust.exceptions import SameNode

from ...topics.errors import BadRecord
from ..runtime import runtime_of
from ..tables.key_placement import REMEDY
from ..tables.partition_state import ABSENT
from ..tables.table import Table
from ..tables.undecodable_changelog import Undecodable

__all__ = ["blueprint", "restore"]

MAX_PAIRS = 100
MAX_PAIRS_BYTES = 4 * 1024 * 1024


class _View(web.View):
    async def dispatch(self, request: Any) -> Any:
        """As Faust's; what a table cannot decode is said in one line."""
        try:
            return await super().dispatch(request)
        except Undecodable as exc:
            return self.text(str(exc), status=500)

    def table(self, name: str) -> Table:
        """The table, or 404."""
        try:
            return self.app.tables[name]  # pyright: ignore[reportReturnType]
        except KeyError:
            raise self.NotFound(f"no table {name}") from None

    def scattered(self, table: Table, key: Any, found: dict[int, Any]) -> Any:
        """409: the key has a value in each of several partitions."""
        listed = ", ".join(f"{partition}: {table.plain(value)!r}" for partition, value in sorted(found.items()))
        error = f"table {table.name}: key {key!r} is in several partitions: {listed}; {REMEDY}"
        return self.answer({"error": error}, status=409)

    def answer(self, value: Any, *, status: int = 200) -> Any:
        """JSON of anything a table can hold."""
        if hasattr(value, "asdict"):  # a Faust record
            value = value.asdict()
        return self.bytes(msgspec.json.encode(value, enc_hook=_plain), content_type="application/json", status=status)


class Restore(_View):
    """How far restoring the tables is."""

    async def get(self, request: Any) -> Any:
        """GET."""
        del request
        progress = runtime_of(self.app).status.restoring
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
        shown: list[Any] = []
        size_bytes = 0
        for state in table.visible_states():
            for key, value in islice(state.committed_items(), MAX_PAIRS - len(shown)):
                found = _by_partition(table, key)
                if len(found) > 1 and not table.local:
                    return self.scattered(table, key, found)
                where = [p for p, own in table.states.items() if own is state] if table.local else []
                pair = msgspec.json.encode([key, table.plain(value), *where], enc_hook=_plain)
                size_bytes += len(pair)
                if shown and size_bytes > MAX_PAIRS_BYTES:
                    break
                shown.append(msgspec.Raw(pair))
        return self.answer({**_summary(table), "partitions": sorted(table.states), "pairs": shown})


class OneKey(_View):
    """One key."""

    async def get(self, request: Any, name: str, key: str) -> Any:
        """GET."""
        table = self.table(name)
        # Here first: where an agent's keys are not those of its records, the partition does not follow from the key.
        candidates = _candidates(table, key)
        for candidate in candidates:
            try:
                if table.is_global:
                    if candidate in table:
                        return self.answer(table.plain(table[candidate]))
                    continue
                found = _by_partition(table, candidate, runtime_of(self.app).status.serves)
            except Undecodable:
                raise
            except BadRecord:
                continue  # no key of this table looks like that
            if len(found) > 1 and not table.local:
                return self.scattered(table, candidate, found)
            if found:
                plain = {partition: table.plain(value) for partition, value in found.items()}
                return self.answer(plain if table.local else next(iter(plain.values())))
        try:
            return await cast(Any, self.app).router.ask_owners(table, candidates, self.web, request)
        except SameNode:
            raise self.NotFound(f"table {name} has no key {key}") from None


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
    keys = sum(state.approximate_count() for state in table.visible_states())
    return {"table": table.name, "help": table.help, "keys": keys}


def _candidates(table: Table, key: str) -> list[Any]:
    """What a key of a path may mean."""
    try:
        kept = table.key_codec.decode(key.encode())
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return [key]
    return [key] if kept == key or isinstance(kept, dict) else [key, kept]


def _by_partition(table: Table, key: Any, served: Callable[[int], bool] | None = None) -> dict[int, Any]:
    """Partition -> the committed value of a key, of this worker's partitions that have it."""
    if table.is_global:
        return {}
    return {
        partition: value
        for partition, state in list(table.states.items())
        if (served is None or served(partition)) and (value := state.committed(key)) is not ABSENT
    }


def _plain(value: Any) -> Any:
    return value.asdict() if hasattr(value, "asdict") else str(value)
