"""Faust's monitor, which no one feeds: anabranch calls no sensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from faust.sensors import Monitor
from mode import Service

from ...topics.errors import Usage

__all__ = ["UnsampledMonitor", "check_sensors"]

_task = cast(Any, Service.task)


class UnsampledMonitor(Monitor):
    """A monitor without the timer that computes averages every second."""

    @_task
    async def _sampler(self) -> None:
        """Do nothing."""


def check_sensors(sensors: Iterable[object], monitor: object) -> None:
    """Refuse sensors of a program.

    Args:
        sensors: all sensors of the app.
        monitor: that of the app itself, which is one of them, or None before there is one.

    Raises:
        Usage: there are others, or the monitor is not Faust's own.
    """
    own = monitor is None or type(monitor) in (UnsampledMonitor, Monitor)
    if not own or set(sensors) - {monitor}:
        raise Usage("Faust sensors are not supported", hint="read /metrics of the worker's web port instead")
