"""Measures librdkafka in Python when it only counts records: the upper limit of programs on this client.

The consumer is the engine's own, made by `GroupConsumer`, so that both have the same settings.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from anabranch.agents.assigned_partitions import Assignment
from anabranch.agents.engine.group_consumer import GroupConsumer
from anabranch.agents.engine.settings import EngineSettings
from anabranch.topics.cluster import Cluster
from run_outcome import Outcome


def count(servers: str, topic: str, records: int, name: str) -> Outcome:
    """Count `records` records."""
    begun_at = time.time()
    settings = EngineSettings()
    assigned: list[Assignment] = []
    group = GroupConsumer(Cluster.named(servers), name, name, settings, assigned.append, lambda _: None, lambda _: None)
    group.subscribe([topic])
    consume, seen, first_at = group.kafka.consume, 0, 0.0
    while seen < records:
        messages = consume(min(settings.batch_records, records - seen), 0.1)
        while assigned:
            group.consume_from(assigned.pop().starts)
        if messages:
            first_at = first_at or time.time()
            errors = [message for message in messages if message.error() is not None]
            if errors:
                raise RuntimeError(errors[0].error().str())
            seen += len(messages)
    done_at = time.time()
    group.close()
    return Outcome.of(seen, begun_at, first_at, done_at)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--bootstrap-server", required=True)
    arguments.add_argument("--topic", required=True)
    arguments.add_argument("--records", type=int, required=True)
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    a = arguments.parse_args()
    count(a.bootstrap_server, a.topic, a.records, a.name).write(a.out)


if __name__ == "__main__":
    main()
