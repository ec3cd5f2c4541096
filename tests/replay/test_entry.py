"""The entry point of the command: how it ends."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

import pytest
from anabranch.replay import signals
from anabranch.replay.cli import entry


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("-A shop worker -l info", 0),
        ("-W /tmp --app=shop worker", 0),
        ("-A worker tables", 143),
        ("replay a.csv --to worker", 143),
        ("--help", 143),
    ],
)
def test_a_worker_that_is_asked_to_end_before_it_runs_its_app_ends_with_0(
    monkeypatch: pytest.MonkeyPatch, arguments: str, code: int
) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise signals.Terminated

    monkeypatch.setattr(sys, "argv", ["anabranch", *arguments.split()])
    monkeypatch.setattr(signals, "install", lambda: None)
    monkeypatch.setattr(signals, "_received", [signal.SIGTERM])
    monkeypatch.setattr(entry.cli, "main", interrupted)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == code
