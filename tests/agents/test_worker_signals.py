"""Signals that arrive while a worker is still starting."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from anabranch.agents import worker


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_event_loop_runs_stops_the_worker(
    lab: Any, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    # What a worker does to its process is not for this one.
    monkeypatch.setattr(worker, "_watch_the_end", lambda *_: None)
    monkeypatch.setattr(worker, "_save_memory", lambda: None)
    monkeypatch.setattr(worker, "collect_seldom", Mock())
    run = asyncio.run

    def run_later(coroutine: Coroutine[Any, Any, None]) -> None:
        os.kill(os.getpid(), number)
        run(coroutine)

    monkeypatch.setattr(worker.asyncio, "run", run_later)
    app, ready = lab.app(lab.fresh("app")), Mock()
    worker.run_worker(app, on_ready=ready)
    ready.assert_not_called()
