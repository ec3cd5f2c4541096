"""A worker that a test can kill: totals by key, on disk. Arguments: broker, app, topic, data folder."""

from __future__ import annotations

import sys

from anabranch import App
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.agents.worker import run_worker
from anabranch.topics.cluster import Cluster


def main() -> None:
    servers, name, topic, data = sys.argv[1:]
    app = App(
        name,
        datadir=data,
        store="rocksdb://",
        web_enabled=False,
        settings=EngineSettings(session_timeout_ms=6_000, epoch_s=0.02),
    )
    runtime_of(app).cluster = Cluster.named(servers)
    totals = app.Table("totals", default=int)

    @app.agent(app.topic(topic, key_type=str), name="total")
    async def total(stream):
        async for key, value in stream.items():
            totals[key] += value

    run_worker(app)


if __name__ == "__main__":
    main()
