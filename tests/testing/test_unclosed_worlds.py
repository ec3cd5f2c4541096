"""Worlds that a test forgets to close."""

from __future__ import annotations

import gc
import logging
from pathlib import Path

import pytest
from anabranch import App, World


def make() -> App:
    app = App("forgotten", store="rocksdb://")
    totals = app.Table("totals", default=int)

    @app.agent(app.topic("orders", key_type=str))
    async def total(stream: object) -> None:
        async for key, value in stream.items():  # type: ignore[attr-defined]
            totals[key] += value

    return app


def test_a_world_that_is_forgotten_is_closed_without_errors(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    world = World(make)
    world.send("orders", 1, key="ann")
    world.settle()
    assert world.table("totals") == {"ann": 1}
    assert list(tmp_path.iterdir())
    with caplog.at_level(logging.DEBUG, logger="asyncio"), pytest.warns(ResourceWarning, match="unclosed <world of"):
        del world
        gc.collect()  # as the interpreter's end would
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert list(tmp_path.iterdir()) == []
