"""Measure: Quix Streams sums JSON records by key, or by key and window, into its state (RocksDB, with a changelog),
exactly-once.

Runs in an environment of its own, so it writes its figures (those of outcome.py) by itself. The sums are in the
changelog.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from quixstreams import Application, State

# Windows that are not closed, so that all of them are in the changelog and can be checked.
_EVER_MS = 10**12


def total(order: dict[str, Any], state: State) -> None:
    state.set("total", state.get("total", 0) + order["amount"])


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--bootstrap-server", required=True)
    arguments.add_argument("--topic", required=True)
    arguments.add_argument("--records", type=int, required=True)
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--windows", type=int, help="by windows of so many milliseconds")
    a = arguments.parse_args()

    begun_at = time.time()
    first_at = 0.0

    def processed(_topic: str, _partition: int, _offset: int) -> None:
        nonlocal first_at
        first_at = first_at or time.time()

    app = Application(
        broker_address=a.bootstrap_server,
        consumer_group=a.name,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=5.0,
        state_dir=a.data,
        consumer_extra_config={"fetch.queue.backoff.ms": 2, "queued.min.messages": 200_000},
        producer_extra_config={"compression.type": "lz4", "linger.ms": 20},
        on_message_processed=processed,
        loglevel="INFO",
    )
    orders = app.topic(a.topic, value_deserializer="json", key_deserializer="bytes")
    if a.windows:
        app.dataframe(orders).apply(lambda order: order["amount"]).tumbling_window(
            a.windows, grace_ms=_EVER_MS
        ).sum().current()
    else:
        app.dataframe(orders).update(total, stateful=True)
    # Ends, after a last commit, when so many values have come out.
    app.run(count=a.records, collect=False)
    done_at = time.time()
    peak_bytes = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    figures = {
        "records": a.records,
        "begun_at": begun_at,
        "first_at": first_at,
        "done_at": done_at,
        "peak_bytes": peak_bytes,
        "found": None,
    }
    new = a.out.with_suffix(".new")
    new.write_text(json.dumps(figures))
    new.replace(a.out)


if __name__ == "__main__":
    main()
