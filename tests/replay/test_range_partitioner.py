"""Range partitioning by command: learn split points, replay with them, show the topic."""

from __future__ import annotations

import os
import subprocess

from anabranch.topics.cluster import Cluster
from anabranch.topics.partitioner_registry import PartitionerRegistry
from anabranch.topics.partitioners import RangePartitioner
from fork_server import ForkServer

WORDS = [f"{letter}{number:02}" for letter in "abcdefghijkl" for number in range(20)]


def test_a_learned_partitioner_is_replayed_by_and_kept(
    broker: Cluster, fresh, drain, tmp_path, forks: ForkServer
) -> None:
    def anabranch(*arguments: str) -> subprocess.CompletedProcess[str]:
        return forks.run(arguments, cwd=tmp_path, env=os.environ, timeout_s=150)

    topic, there = fresh("words"), ("-b", broker.bootstrap_servers)
    words = tmp_path / "words.txt"
    words.write_text("".join(f"{word},1\n" for word in WORDS))

    learned = anabranch("topics", "splits", str(words), "--key-before", ",", "--partitions", "3")
    assert learned.returncode == 0, learned.stderr
    assert "skew 1.00" in learned.stderr
    partitioner = RangePartitioner.parsed(learned.stdout.strip())
    assert partitioner.splits == (b"e00", b"i00")

    replay = ["replay", str(words), "--to", topic, "--key-before", ",", *there]
    done = anabranch(*replay, "--partitioner", str(partitioner))
    assert done.returncode == 0, done.stderr
    landed: dict[int, list[bytes]] = {}
    for message in drain(topic):
        landed.setdefault(message.partition(), []).append(message.key())
    assert [key.decode() for p in sorted(landed) for key in landed[p]] == WORDS, "in key order, partition by partition"
    assert PartitionerRegistry(broker).of([topic]) == {topic: partitioner}

    other = anabranch(*replay, "--partitioner", "range:c,d", "--run-id", fresh())
    assert other.returncode == 2
    assert "is partitioned by range:e00,i00, not by range:c,d" in other.stderr

    listed = anabranch("topics", *there)
    assert any(topic in line and "range:e00,i00" in line for line in listed.stdout.splitlines()), listed.stdout
