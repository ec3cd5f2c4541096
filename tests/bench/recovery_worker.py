"""The worker of the bench of interruptions: sums orders by user and forwards their numbers."""

from __future__ import annotations

import argparse
import logging

import msgspec
from anabranch import App
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.agents.worker import run_worker
from anabranch.topics.cluster import Cluster


class Order(msgspec.Struct):
    user: str
    amount: int
    at: int


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--bootstrap-server", required=True)
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--topic", required=True)
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--store", required=True)
    arguments.add_argument("--protocol", required=True)
    arguments.add_argument("--copies", type=int, required=True)
    arguments.add_argument("--session-ms", type=int, required=True)
    a = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = EngineSettings(group_protocol=a.protocol, standby_replicas=a.copies, session_timeout_ms=a.session_ms)
    app = App(a.name, datadir=a.data, store=a.store, settings=settings, web_enabled=False)
    runtime_of(app).cluster = Cluster(a.bootstrap_server)
    totals, out = app.Table("totals", default=int), app.topic(f"{a.topic}-out", value_type=bytes)

    @app.agent(app.topic(a.topic, value_type=Order))
    async def total(stream):
        async for order in stream:
            totals[order.user] += order.amount
            if order.at:
                await out.send(value=b"%d" % order.at, partition=stream.message.partition())

    run_worker(app, on_ready=lambda _: print("ready", flush=True))


if __name__ == "__main__":
    main()
