"""Apps with an agent that counts views of pages in a windowed table, for the tests of such tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anabranch
import faust
from anabranch import World
from anabranch.agents.engine.settings import EngineSettings

__all__ = ["Declare", "View", "add", "app_with", "reporting", "send", "tumbling", "windows"]

Declare = Callable[[anabranch.App], Any]


class View(faust.Record, validation=False):
    page: str
    at: Any
    n: int = 1


def app_with(
    declare: Declare,
    work: Callable[[Any, Any, dict[str, Any]], Any],
    *,
    agent: dict[str, Any] | None = None,
    settings: EngineSettings | None = None,
    **topic: Any,
) -> tuple[Callable[[], anabranch.App], dict[str, Any]]:
    """Return what makes an app with one agent, which calls `work` for each view, and what the app consists of."""
    made: dict[str, Any] = {}

    def app() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1, settings=settings)
        made.update(app=app, out=app.topic("out"), told=[])
        views = made["views"] = declare(app)
        source = app.topic("views", **{"value_type": View, "idle_after": None, **topic})

        async def count(stream: Any) -> None:
            async for view in stream:
                work(views, view, made)

        options: dict[str, Any] = agent or {}
        app.agent(source, name="count", **options)(count)
        return app

    return app, made


def add(views: Any, view: Any, made: Any) -> None:
    views[view.page] += view.n


def send(world: World, *times: Any, page: str = "a", topic: str = "views", **fields: Any) -> None:
    for at in times:
        world.send(topic, {"page": page, "at": at, **fields}, key=page)
        world.settle()


def tumbling(size: float = 10, expires: Any = 10, default: Any = int, **options: Any) -> Declare:
    def declare(app: anabranch.App) -> Any:
        return app.Table("by-page", default=default, **options).tumbling(size, expires=expires)

    return lambda app: declare(app).relative_to_field(View.at)


def reporting(size: float = 10, expires: Any = 10, **options: Any) -> Declare:
    """Windows that are sent to the topic `out` when they close."""

    def declare(app: anabranch.App) -> Any:
        async def report(key: Any, value: Any) -> None:
            await app.topic("out").send(key=key[0], value=[key[0], list(key[1]), value])

        table = app.Table("by-page", default=int, on_window_close=report, **options)
        return table.tumbling(size, expires=expires).relative_to_field(View.at)

    return declare


def windows(world: World) -> dict[tuple[float, float], Any]:
    return {(start / 1000, end / 1000): value for (_, start, end), value in world.table("by-page").items()}
