"""Tables over HTTP: the committed content of this worker's partitions, and single keys of any worker's partitions.

| path | answer |
| --- | --- |
| `/restore/` | whether tables are being restored, and the progress: `restoration.py` |
| `/tables/` | name, help and number of keys on this worker of each table (an estimate for tables on disk) |
| `/tables/<table>/` | the same of one table, its partitions on this worker, and its first 100 pairs, 4 MiB at most |
| `/tables/<table>/<key>/` | the value as JSON, from the worker that has the key (`key_routing.py`) |

The answer for a key is 404 if the key does not exist, even if the table has a default, and 503 with the reason while no
worker can answer, as during a rebalance.

The key of a path may be text or the encoded form of the table's keys, which is JSON unless a type is declared:
`/tables/counts/7/`, and `/tables/counts/["a","b"]/` for a tuple, both percent-encoded.

A key that is in several partitions of this worker has no single value: 409, unless the table is declared `local`. For
such a table, the answer for a key comes from this worker only and is an object of partitions and values; pairs include
their partition.

Private fields are answered as `***` (`topics/private_fields.py`), unless the worker runs with `--show-private`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import msgspec
from faust import web
from faust.exceptions import SameNode

from ...topics.errors import BadRecord
from ..runtime import runtime_of
from ..tables.absent import ABSENT
from ..tables.key_placement import REMEDY
from ..tables.table import Table
from ..tables.undecodable_changelog import Undecodable
from .key_routing import KeyRouter

if TYPE_CHECKING:
    from aiohttp.web import Request

__all__ = ["blueprint", "restore"]

MAX_PAIRS = 100
MAX_PAIRS_BYTES = 4 * 1024 * 1024


class _View(web.View):
    async def dispatch(self, request: Any) -> Any:
        """Answer a request; content that the table cannot decode gives a 500 with one line."""
        try:
            return await super().dispatch(request)
        except Undecodable as exc:
            return self.text(str(exc), status=500)

    def table(self, name: str) -> Table:
        """Return a table of the app; answers 404 if it does not exist."""
        try:
            return cast(Table, self.app.tables[name])
        except KeyError:
            raise self.NotFound(f"no table {name}") from None

    def scattered(self, table: Table, key: object, found: dict[int, object]) -> web.Response:
        """Return 409: the key has a value in each of several partitions."""
        private = table.private
        shown = {partition: private.value(table.plain(value)) for partition, value in sorted(found.items())}
        listed = ", ".join(f"{partition}: {value!r}" for partition, value in shown.items())
        error = f"table {table.name}: key {private.key(key)!r} is in several partitions: {listed}; {REMEDY}"
        return self.answer({"error": error}, status=409)

    def answer(self, value: object, *, status: int = 200) -> web.Response:
        """Return any value of a table as JSON."""
        body = msgspec.json.encode(_plain(value) if hasattr(value, "asdict") else value, enc_hook=_plain)
        return self.bytes(body, content_type="application/json", status=status)


class Restore(_View):
    """The progress of a restore."""

    async def get(self, request: Request) -> web.Response:
        """Answer `GET /restore/`."""
        del request
        progress = runtime_of(self.app).status.restoring
        return self.answer({"restoring": progress is not None, **(progress.facts() if progress is not None else {})})


class TableViews(_View):
    """All tables."""

    async def get(self, request: Request) -> web.Response:
        """Answer `GET /tables/`."""
        del request
        return self.answer([_summary(table) for table in runtime_of(self.app).tables])


class OneTable(_View):
    """One table."""

    async def get(self, request: Request, name: str) -> web.Response:
        """Answer `GET /tables/<table>/`."""
        del request
        table = self.table(name)
        private = table.private
        shown: list[msgspec.Raw] = []
        size_bytes = 0
        for state in table.visible_states():
            for key, value in islice(state.content.committed_items(), MAX_PAIRS - len(shown)):
                found = _by_partition(table, key)
                if len(found) > 1 and not table.local:
                    return self.scattered(table, key, found)
                partition = [p for p, own in table.states.items() if own is state] if table.local else []
                plain = table.plain(value)
                shown_pair = [private.key(key, plain), private.value(plain), *partition]
                pair = msgspec.json.encode(shown_pair, enc_hook=_plain)
                size_bytes += len(pair)
                if shown and size_bytes > MAX_PAIRS_BYTES:
                    break
                shown.append(msgspec.Raw(pair))
        return self.answer({**_summary(table), "partitions": sorted(table.states), "pairs": shown})


class OneKey(_View):
    """One key."""

    async def get(self, request: Request, name: str, key: str) -> web.Response:
        """Answer `GET /tables/<table>/<key>/`."""
        table = self.table(name)
        private = table.private
        # This worker is queried first: where agents write other keys than their records have, the partition does not
        # follow from the key.
        candidates = _candidates(table, key)
        for candidate in candidates:
            try:
                if table.is_global:
                    if candidate in table:
                        return self.answer(private.value(table.plain(table[candidate])))
                    continue
                serves = partial(runtime_of(self.app).status.serves, table.name)
                found = _by_partition(table, candidate, serves)
            except Undecodable:
                raise
            except BadRecord:
                continue  # the table has no such keys
            if len(found) > 1 and not table.local:
                return self.scattered(table, candidate, found)
            if found:
                plain = {partition: private.value(table.plain(value)) for partition, value in found.items()}
                return self.answer(plain if table.local else next(iter(plain.values())))
        try:
            return await cast(KeyRouter, self.app.router).ask_owners(table, candidates, self.web, request)
        except SameNode:
            raise self.NotFound(f"table {name} has no key {key}") from None


def restore() -> web.Blueprint:
    """Return the view `/restore/`, which has no prefix."""
    made = web.Blueprint("restore")
    made.route("/restore/", name="restore")(Restore)
    return made


def blueprint(name: str) -> web.Blueprint:
    """Return the views of tables, to be mounted under a prefix."""
    made = web.Blueprint(name)
    made.route("/", name="list")(TableViews)
    made.route("/{name}/", name="table")(OneTable)
    made.route("/{name}/{key}/", name="key")(OneKey)
    return made


def _summary(table: Table) -> dict[str, object]:
    keys = sum(state.content.approximate_count() for state in table.visible_states())
    return {"table": table.name, "help": table.help, "keys": keys}


def _candidates(table: Table, key: str) -> list[object]:
    """Return the possible meanings of the key of a path."""
    try:
        decoded = table.key_codec.decode(key.encode())
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return [key]
    return [key] if decoded == key or isinstance(decoded, dict) else [key, decoded]


def _by_partition(table: Table, key: object, served: Callable[[int], bool] | None = None) -> dict[int, object]:
    """Return partition -> committed value of a key, for the partitions of this worker that have it.

    Args:
        served: returns whether a partition is active here; None for all.
    """
    if table.is_global:
        return {}
    return {
        partition: value
        for partition, state in list(table.states.items())
        if (served is None or served(partition)) and (value := state.content.committed(key)) is not ABSENT
    }


def _plain(value: Any) -> object:
    """Return the fields of a Faust record; text for anything else that JSON does not know."""
    return value.asdict() if hasattr(value, "asdict") else str(value)
