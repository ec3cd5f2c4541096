"""Measures the same agent in unmodified Faust, with its own Kafka client and defaults, and tables in memory.

To Faust's advantage, records count as done when the agent has handled them, committed or not.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from pathlib import Path
from typing import Any

import faust
from records import PARTITIONS
from run_outcome import Outcome


class Order(faust.Record, serializer="json"):
    user: str
    amount: int
    at: int


def shop(servers: str, name: str, topic: str, records: int, data: str, out: Path) -> faust.App:
    """As in Faust's own first example; the process ends with its last record."""
    app = faust.App(
        name,
        broker=f"kafka://{servers}",
        store="memory://",
        # Faust wants to know; its own 8 would not fit the topic's.
        topic_partitions=PARTITIONS,
        datadir=data,
        web_port=_free_port(),
    )
    orders = app.topic(topic, value_type=Order, partitions=PARTITIONS)
    totals: Any = app.Table("totals", default=int)
    begun_at = time.time()
    first_at = 0.0
    handled = 0

    @app.agent(orders)
    async def total(stream: Any) -> None:
        nonlocal first_at, handled
        async for order in stream:
            first_at = first_at or time.time()
            totals[order.user] += order.amount
            handled += 1
            if handled == records:
                Outcome.of(handled, begun_at, first_at, time.time(), dict(totals.items())).write(out)
                # Leaving its group in good order takes Faust seconds that nobody measures.
                os._exit(0)

    return app


def _free_port() -> int:
    with socket.socket() as look:
        look.bind(("127.0.0.1", 0))
        return look.getsockname()[1]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--bootstrap-server", required=True)
    arguments.add_argument("--topic", required=True)
    arguments.add_argument("--records", type=int, required=True)
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--data", required=True)
    a = arguments.parse_args()
    app = shop(a.bootstrap_server, a.name, a.topic, a.records, a.data, a.out)
    faust.Worker(app, loglevel="INFO", redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    main()
