"""Health checks and metrics over HTTP.

| path | answer |
| --- | --- |
| `/healthz` | 200 while the process is alive; 503 when it should be killed and restarted |
| `/readyz` | 200 with partitions assigned, tables restored and lag below `EngineSettings.ready_lag_records`; else 503 |
| `/metrics` | the metrics of `metrics.py`, in Prometheus's text format |

A 503 gives its reason in one line of text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp.web import Request
from faust import web

from ...topics import clock
from ...topics.errors import message_of
from ...topics.topic_partition import listed
from ..runtime import runtime_of
from .metrics import CONTENT_TYPE, exposition

if TYPE_CHECKING:
    from ..runtime import Runtime

__all__ = ["blueprint", "not_alive", "not_ready"]


def not_alive(runtime: Runtime, now_s: float) -> str:
    """Return why this process should be killed and restarted; empty while it is alive.

    A process that waits for a broker, restores or has no partitions is alive. While an agent blocks the event loop,
    `blocked_loop.py` answers instead.

    Args:
        now_s: seconds on the monotonic clock.
    """
    status = runtime.status
    if runtime.stopped_by is not None:
        return f"ending: {message_of(runtime.stopped_by)}"
    if status.ended:
        return "the engine has ended"
    limit_s = status.settings.max_poll_interval_ms / 1000
    busy_s = status.busy_s(now_s)
    if busy_s > limit_s:
        return f"an agent has worked on one record for {busy_s:.0f} s, the limit is {limit_s:.0f} s"
    return ""


def not_ready(runtime: Runtime) -> str:
    """Return why this worker is not ready; empty if it is."""
    status = runtime.status
    if status.exited:
        return f"agent {', '.join(status.exited)} has ended"
    if runtime.stop_requested.is_set():
        return "ending"
    if not status.ready.is_set():
        return _restoring(runtime) or "no partitions assigned yet"
    if status.rebalancing:
        return _restoring(runtime) or "rebalancing"
    if missing := status.missing:
        task, partitions = next(iter(missing.items()))
        return f"task {task} needs {listed(partitions)}, which another worker has"
    limit, lag = status.settings.ready_lag_records, sum(status.lags().values())
    if limit is not None and lag > limit:
        return f"{lag:,} records behind, the limit is {limit:,}"
    return ""


def _restoring(runtime: Runtime) -> str:
    progress = runtime.status.restoring
    return f"restoring tables: {progress.offsets_left:,} offsets left" if progress is not None else ""


class _Check(web.View):
    def verdict(self, reason: str) -> web.Response:
        """Return 200 if the reason is empty, else 503 with it."""
        return self.text(reason or "ok", status=503 if reason else 200)


class Alive(_Check):
    """Liveness."""

    async def get(self, request: Request) -> web.Response:
        """Answer `GET /healthz`."""
        del request
        return self.verdict(not_alive(runtime_of(self.app), clock.now_s()))


class Ready(_Check):
    """Readiness."""

    async def get(self, request: Request) -> web.Response:
        """Answer `GET /readyz`."""
        del request
        return self.verdict(not_ready(runtime_of(self.app)))


class Metrics(web.View):
    """Metrics."""

    async def get(self, request: Request) -> web.Response:
        """Answer `GET /metrics`."""
        del request
        return self.bytes(exposition(runtime_of(self.app), not_ready), headers={"Content-Type": CONTENT_TYPE})


def blueprint() -> web.Blueprint:
    """Return the views; their paths have no prefix, because that is where probes expect them."""
    made = web.Blueprint("health")
    made.route("/healthz", name="healthz")(Alive)
    made.route("/readyz", name="readyz")(Ready)
    made.route("/metrics", name="metrics")(Metrics)
    return made
