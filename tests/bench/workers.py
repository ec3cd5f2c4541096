"""Measures several processes of `worker.py` in one group, until the group has committed all records.

Their start, and the rebalances when the second joins the first, are in the time if the first has begun to read by then.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

from anabranch.topics.cluster import Cluster
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient
from run_outcome import Outcome

_WORKER = Path(__file__).with_name("worker.py")
_LOOK_S = 0.02
_END_S = 60.0


def committed(admin: AdminClient, group: str) -> int:
    """How many records the group has committed: its topic holds nothing else."""
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    found = asked[group].result().topic_partitions or []
    return sum(max(0, at.offset) for at in found)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--bootstrap-server", required=True)
    arguments.add_argument("--topic", required=True)
    arguments.add_argument("--records", type=int, required=True)
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--style", default="record")
    a = arguments.parse_args()

    outs = [a.out.with_suffix(f".{number}") for number in range(a.workers)]
    command = [sys.executable, str(_WORKER), "--bootstrap-server", a.bootstrap_server, "--topic", a.topic]
    command += ["--records", str(a.records), "--name", a.name, "--data", a.data, "--share", "--style", a.style]
    begun_at = time.time()
    workers = [subprocess.Popen([*command, "--out", str(out)]) for out in outs]
    admin = AdminClient(Cluster.named(a.bootstrap_server).config())
    try:
        while committed(admin, a.name) < a.records:
            if any(worker.poll() is not None for worker in workers):
                raise SystemExit("a worker ended")
            time.sleep(_LOOK_S)
        done_at = time.time()
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        for worker in workers:
            if worker.wait(_END_S):
                raise SystemExit(f"a worker ended with {worker.returncode}")
    finally:
        for worker in workers:
            worker.kill()
    shares = [Outcome.read(out) for out in outs]
    first_at = min(share.first_at for share in shares if share.first_at)
    peak_bytes = sum(share.peak_bytes for share in shares)
    Outcome(a.records, begun_at, first_at, done_at, peak_bytes, None).write(a.out)


if __name__ == "__main__":
    main()
