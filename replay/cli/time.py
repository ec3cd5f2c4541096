"""`anabranch time`: how far the operators of an app are in event time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from ...topics import clock
from ...topics.errors import AnabranchError, Stop, Usage
from ...topics.topic_partition import TopicPartition, listed
from ..time_text import format_duration_ms, format_time
from .common_options import app_name, choose_cluster, cluster_options, status_line
from .console import counted, folding, out, write_json
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ...agents.runtime import Runtime
    from ...agents.web.worker_client import WorkerClient
    from ...agents.web.worker_registry import Announcement

__all__ = ["time"]

Facts = dict[str, Any]


@click.command()
@click.option("-J", "--json", "as_json", is_flag=True, help="Print JSON lines.")
@cluster_options
@click.pass_context
def time(context: click.Context, as_json: bool, bootstrap_server: str | None, options: tuple[str, ...]) -> None:
    """Show how far the windows and timers of an app are in event time, as its running workers say.

    For each table of windows or timers and partition: the watermark, which source partitions it waits for and since
    when, how many windows or timers are open, and at which watermark the next one closes or fires. Below it, how many
    records were late since the workers have started, and which source partitions wait because they are far ahead of
    others. Workers are asked at their web ports.

    \b
    Examples:
      anabranch -A shop time
      anabranch -A shop time --json
    """
    from ...agents.web.operator_times import operators
    from ..app_loader import load_app, runtime_of

    log_to_stderr(None)
    runtime = runtime_of(load_app(app_name(context)))
    if not operators(runtime):
        raise Usage(f"app {runtime.app_id} has no windows and no timers", hint="see docs/time.md")
    with choose_cluster(bootstrap_server, options, runtime) as choice:
        runtime.cluster = choice.cluster
        answers, failures = asyncio.run(_ask_workers(runtime))
    for failure in failures:
        status_line(failure)
    if not answers:
        raise Stop("no worker has answered", hint="is one running, with a web port?")
    rows = [row for answer in answers for row in answer["operators"]]
    rows.sort(key=lambda row: (row["operator"], row["partition"]))
    late = Counter[tuple[str, str]]()
    for each in [each for answer in answers for each in answer["late"]]:
        late[each["operator"], each["reason"]] += each["records"]
    waiting = [each for answer in answers for each in answer.get("waiting", ())]
    waiting.sort(key=lambda each: each["partition"])
    if as_json:
        for row in rows:
            write_json(row)
        for (operator, reason), records in sorted(late.items()):
            write_json({"operator": operator, "reason": reason, "records": records})
        for partition in waiting:
            write_json(partition)
    else:
        _show(rows, late, waiting)


async def _ask_workers(runtime: Runtime) -> tuple[list[Facts], list[str]]:
    """Return the answers of all workers, and why others have given none."""
    from ...agents.web.worker_client import WorkerClient

    registry = runtime.worker_registry
    try:
        workers = await registry.workers()
    except AnabranchError as exc:
        raise Stop(f"no worker of {runtime.group_id} is known: {exc}", hint="is one running, with a web port?") from exc
    finally:
        await registry.close()
    client = WorkerClient("anabranch time")
    try:
        found = await asyncio.gather(*(_ask(client, worker) for worker in workers))
    finally:
        await client.close()
    return [one for one in found if not isinstance(one, str)], [one for one in found if isinstance(one, str)]


async def _ask(client: WorkerClient, worker: Announcement) -> Facts | str:
    from ...agents.web.time_views import PATH
    from ...agents.web.worker_client import NoAnswer

    if not worker.reachable:
        return f"a worker listens on loopback of {worker.host} only: start workers with --web-bind"
    assert worker.origin is not None
    try:
        answer = await client.get(worker.origin.with_path(PATH))
    except NoAnswer as exc:
        return f"{worker.url} {exc}"
    return json.loads(answer.body) if answer.status == 200 else f"{worker.url} answers with {answer.status}"


def _show(rows: list[Facts], late: Counter[tuple[str, str]], waiting: list[Facts]) -> None:
    from rich.table import Table as Grid

    columns = "operator", "partition", "watermark", "held back by", "for", "open", "next"
    grid = folding(Grid(*columns, header_style="bold"))
    for column in ("partition", "for", "open"):
        grid.columns[columns.index(column)].justify = "right"
    now_ms = clock.now_ms()
    for row in rows:
        since_ms, by = row["since_ms"], [TopicPartition(*at) for at in row["held_back_by"]]
        grid.add_row(
            row["operator"],
            str(row["partition"]),
            _moment(row["watermark_ms"], "unknown"),
            listed(by) if by else "",
            format_duration_ms(max(0, now_ms - since_ms)) if by and since_ms else "",
            f"{row['open']:,}",
            _moment(row["next_ms"], ""),
        )
    out.print(grid)
    for (operator, reason), records in sorted(late.items()):
        out.print(f"{operator}: {counted(records, f'{reason} record')}")
    for partition in waiting:
        at, by = (listed([TopicPartition(*partition[name])]) for name in ("partition", "waits_for"))
        ahead_ms, since_ms = partition["ahead_ms"], partition["since_ms"]
        ahead = "which has no time yet" if ahead_ms is None else f"{format_duration_ms(ahead_ms)} behind it"
        since = format_duration_ms(max(0, now_ms - since_ms))
        out.print(
            f"{at} waits for {by}, {ahead}: for {since}, with {counted(partition['records'], 'record')}", soft_wrap=True
        )


def _moment(time_ms: int | str | None, otherwise: str) -> str:
    return otherwise if time_ms is None else time_ms if isinstance(time_ms, str) else format_time(time_ms)
