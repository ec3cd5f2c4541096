"""Event time over HTTP: `/time/` answers with the operators of this worker; `anabranch time` asks all workers.

    {
      "operators": [{"operator": "by-user", "partition": 0, "watermark_ms": 1769860812000, "held_back_by":
        [["orders", 3]], "since_ms": 1769861000000, "open": 2, "next_ms": 1769861100000}],
      "late": [{"operator": "by-user", "reason": "late", "records": 3}],
      "waiting": [{"partition": ["orders", 1], "waits_for": ["orders", 3], "ahead_ms": 7800000,
        "since_ms": 1769861000000, "records": 20000}]
    }

`operator_times.py` describes the fields. A watermark is null before it is known, and "end" behind the end of an input.
Late records are counted since the worker has started.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from faust import web

from ..event_time.channel import END_MS, NEVER_MS
from ..runtime import runtime_of
from .operator_times import OperatorTime, operator_times, waiting_partitions

if TYPE_CHECKING:
    from aiohttp.web import Request

__all__ = ["PATH", "blueprint"]

PATH = "/time/"


class Times(web.View):
    """Event time of this worker's operators."""

    async def get(self, request: Request) -> web.Response:
        """Answer `GET /time/`."""
        del request
        runtime = runtime_of(self.app)
        late = [
            {"operator": operator, "reason": reason, "records": records}
            for (operator, reason), records in sorted(runtime.status.late_total.items())
        ]
        waiting = [asdict(partition) for partition in waiting_partitions(runtime)]
        operators = [_facts(time) for time in operator_times(runtime)]
        return self.json({"operators": operators, "late": late, "waiting": waiting})


def _facts(time: OperatorTime) -> dict[str, object]:
    watermark_ms = {NEVER_MS: None, END_MS: "end"}.get(time.watermark_ms, time.watermark_ms)
    return {**asdict(time), "watermark_ms": watermark_ms}


def blueprint() -> web.Blueprint:
    """Return the view `/time/`."""
    made = web.Blueprint("time")
    made.route(PATH, name="time")(Times)
    return made
