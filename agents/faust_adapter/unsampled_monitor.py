"""Faust's monitor, which no one feeds: anabranch calls no sensor."""

from __future__ import annotations

from typing import Any, cast

from faust.sensors import Monitor
from mode import Service

__all__ = ["UnsampledMonitor"]

_task = cast(Any, Service.task)


class UnsampledMonitor(Monitor):
    """A monitor without the timer that computes averages every second."""

    @_task
    async def _sampler(self) -> None:
        """Do nothing."""
