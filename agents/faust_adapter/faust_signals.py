"""Faust's signals of an app."""

from __future__ import annotations

from typing import Any

from faust.types import AppT
from mode import BaseSignal

from ...topics.errors import Usage

__all__ = ["check_signals", "forget_receivers"]


def forget_receivers(app: AppT) -> None:
    """Begin without receivers. mode keeps them by the app's address, which an app that is gone may have had."""
    for signal in vars(app).values():
        if isinstance(signal, BaseSignal):
            signal._filter_receivers.pop(hash(app), None)  # pyright: ignore[reportPrivateUsage]


def check_signals(app: AppT) -> None:
    """Refuse receivers that would never be called.

    Raises:
        Usage: the program has one.
    """
    signal: Any = app.on_produce_message
    if list(signal.iter_receivers(app)):
        raise Usage(
            "the signal on_produce_message is not supported",
            hint="set headers where records are sent: send(…, headers=…)",
        )
