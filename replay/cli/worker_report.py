"""The lines that a worker writes for people: what it is, how it goes, what it did."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import click

from ...agents.engine.protocols import topics_read
from ...agents.event_time.channel import END_MS, NEVER_MS
from ...agents.web.operator_times import operator_times
from ...topics import clock
from ...topics.printable import printable
from ...topics.topic_partition import TopicPartition
from ..time_text import format_duration_ms, format_time
from .console import counted
from .logs import json_formatter, marked
from .status_key import call_on_enter

if TYPE_CHECKING:
    from ...agents.runtime import Runtime

__all__ = ["WorkerReport", "offer_status"]

logger = logging.getLogger("anabranch")

_EVERY_S = 60.0
_WHOLE = 10.0  # rates from here on are shown as whole numbers


class WorkerReport:
    """Reports about one worker, on stderr; lines of JSON where the log is JSON.

    SIGUSR1, and Enter at the worker's terminal, show a status line at once; there is one each minute in which records
    were processed.

    Args:
        name: the app as the command line names it.
        embedded: whether the cluster is the embedded broker.
        brief: the worker is one of several that a parent process runs: no description of the app.
    """

    def __init__(self, runtime: Runtime, name: str, *, embedded: bool, brief: bool) -> None:
        self._runtime, self._name, self._embedded, self._brief = runtime, name, embedded, brief
        self._began_s = self._shown_s = clock.now_s()
        self._shown_records = 0
        self._reporting: asyncio.Task[None] | None = None

    def on_ready(self) -> None:
        """Describe the worker, and begin to show its status (in the worker's event loop)."""
        runtime = self._runtime
        conf = runtime.conf
        self._began_s = self._shown_s = clock.now_s()
        self._shown_records = runtime.status.records_total
        web = f"   web http://{conf.web_bind}:{conf.web_port}" if conf.web_enabled else ""
        partitions = ranges_of(runtime.status.owned) or "no partitions yet"
        ready = f"{conf.id}: ready on {runtime.cluster.bootstrap_servers}   pid {os.getpid()}{web}"
        if json_formatter() is not None:
            logger.info("%s   %s", ready, partitions)
        else:
            _echo(ready, fg="green", bold=True)
            for line in [*([] if self._brief else self._description()), partitions]:
                _echo(f"  {line}")
        loop = asyncio.get_running_loop()
        show = partial(loop.call_soon_threadsafe, self.show_status)
        signal.signal(signal.SIGUSR1, lambda *_: show())
        offer_status(show)
        if not self._brief:
            self._reporting = loop.create_task(self._report())

    def _description(self) -> list[str]:
        runtime = self._runtime
        lines = [
            f"anabranch {_version()}, {runtime.settings.guarantee}, {'embedded Kafka' if self._embedded else 'Kafka'}"
        ]
        read: list[str] = []
        for agent in runtime.app.agents.values():
            read += topics_read(agent)
            lines.append(f"agent {agent.name} ← {', '.join(topics_read(agent)) or 'a channel'}")
        if tables := [f"{table.name} ({table.store_scheme})" for table in runtime.tables]:
            lines.append(f"tables {', '.join(tables)}")
        if read:
            lines.append(f"send a record: anabranch -A {self._name} send {read[0]} KEY VALUE")
        return lines

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            if self._runtime.status.records_total > self._shown_records:
                self.show_status()

    def show_status(self) -> None:
        """Show the rate since the last status line, the lag, and the least watermark of the app's windows."""
        status, now_s = self._runtime.status, clock.now_s()
        records = status.records_total
        rate = (records - self._shown_records) / max(now_s - self._shown_s, 0.001)
        self._shown_s, self._shown_records = now_s, records
        shown = f"{rate:,.1f}" if 0 < rate < _WHOLE else f"{rate:,.0f}"
        text = f"{shown} records/s, {counted(records, 'record')} in all, lag {sum(status.lags().values()):,}"
        text += f", {counted(len(status.owned), 'partition')}{self._event_time()}{self._failures()}"
        _say(f"{self._runtime.conf.id}: {text}", **self._style)

    def _event_time(self) -> str:
        known = [time for time in operator_times(self._runtime) if time.watermark_ms > NEVER_MS]
        if not known:
            return ""
        least = min(known, key=lambda time: time.watermark_ms)
        at = "end of input" if least.watermark_ms == END_MS else format_time(least.watermark_ms)
        return f", watermark {at} ({least.operator})"

    @property
    def _style(self) -> dict[str, Any]:
        """Yellow as soon as a record has failed."""
        return {"fg": "yellow"} if self._failures() else {}

    def _failures(self) -> str:
        status = self._runtime.status
        found = {"dead letter": status.dead_letters_total, "skipped record": status.skipped_total}
        return "".join(f", {counted(count, what)}" for what, count in found.items() if count)

    def on_end(self) -> None:
        """Report what the worker did, after it has ended as it was told to."""
        runtime = self._runtime
        if not runtime.engine_started:
            return
        status = runtime.status
        took = format_duration_ms((clock.now_s() - self._began_s) * 1000)
        done = f"{counted(status.records_total, 'record')} in {counted(status.commits_total, 'commit')}"
        if status.left_uncommitted:
            left = "the last records are not committed, and will be processed again"
        else:
            left = "its partitions stay reserved" if runtime.keep_identity else "offsets are committed"
        _say(f"{runtime.conf.id}: stopped after {took}: {done}{self._failures()}; {left}", **self._style)


def _version() -> str:
    try:
        return version("anabranch")
    except PackageNotFoundError:  # run from a folder
        return "(not installed)"


def offer_status(show: Callable[[], object]) -> None:
    """Call `show` when Enter is typed at the terminal, and say so; nothing without a terminal."""
    if call_on_enter(show) and json_formatter() is None:
        _echo("  press Enter for the status, Ctrl-C to stop")


def _say(text: str, **style: Any) -> None:
    if json_formatter() is not None:
        logger.info("%s", text)
    else:
        _echo(text, **style)


def _echo(text: str, **style: Any) -> None:
    text = printable(text, one_line=True)
    click.echo(marked(text, **style), err=True)


def ranges_of(partitions: Iterable[TopicPartition]) -> str:
    """Return partitions as text, those in a row together.

    >>> ranges_of([TopicPartition("orders", p) for p in (0, 1, 2, 5)])
    'orders[0-2], orders[5]'
    """
    found: list[list[TopicPartition]] = []
    for at in sorted(partitions):
        topic, partition = at
        if found and (topic, partition - 1) == found[-1][-1]:
            found[-1].append(at)
        else:
            found.append([at])
    return ", ".join(f"{row[0][0]}[{row[0][1]}{f'-{row[-1][1]}' if len(row) > 1 else ''}]" for row in found)
