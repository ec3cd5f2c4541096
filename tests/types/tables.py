# pyright: strict
"""Tables of every kind."""

from datetime import timedelta
from typing import reveal_type

import msgspec
from anabranch import App, Stream, Table


class Profile(msgspec.Struct):
    name: str = ""
    visits: int = 0


app = App("tables", store="rocksdb://", standby_replicas=1)
visits = app.topic("visits", key_type=str, value_type=str)
plain = app.Table("plain")
counts = app.Table("counts", default=int)
named = app.Table("named", key_type=str, value_type=float)
profiles = app.Table("profiles", key_type=str, default=Profile, store="memory://")
lists = app.Table("lists", default=lambda: [0.0])
recent = app.Table("recent", default=int, ttl=timedelta(hours=1), partitions=4)
seen = app.SetTable("seen", key_type=str, value_type=str)
tags = app.SetTable("tags")
names = app.GlobalTable("names", key_type=str, value_type=str, help="names by id")
views = app.Table("views", key_type=str, default=int).tumbling(60, expires="2m").relative_to_stream()

reveal_type(plain)  # Table[Any, Any]
reveal_type(counts)  # Table[Any, int]
reveal_type(counts["ann"])  # int
reveal_type(named)  # Table[str, float]
reveal_type(named.get("a"))  # float | None
reveal_type(named.get("a", 0.0))  # float
reveal_type(profiles["ann"].visits)  # int
reveal_type(lists)  # Table[Any, list[float]]
reveal_type(recent["ann"])  # int
reveal_type(seen)  # Table[str, set[str]]
reveal_type(tags)  # Table[Any, set[Any]]
reveal_type(names["a"])  # str
reveal_type(views)  # WindowWrapper[str, int]
reveal_type(views["a"].now())  # int
reveal_type(list(views.items().now()))  # list[tuple[str, int]]


@app.agent(visits)
async def visit(stream: Stream[str]) -> None:
    async for user in stream:
        counts[user] += 1
        profiles[user].visits += 1
        seen[user].add("page")
        views[user] += 1
        named[user] = named.get(user, 0.0) + 1
        for key, value in named.items():
            reveal_type(key)  # str
            reveal_type(value)  # float
        if user in counts:
            print(counts.pop(user), list(counts), len(counts))


def largest(table: Table[str, float]) -> float:
    return max(table.values(), default=0.0)


print(largest(named))
