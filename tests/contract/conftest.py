"""What contract tests share with tests of replays, and `kafka`: Kafka in memory, and then the real Kafka."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anabranch.topics import clock
from anabranch.topics.memory.memory_kafka import MemoryKafka

if TYPE_CHECKING:
    from kafka_lab import KafkaLab

sys.path[:0] = [str(Path(__file__).parents[1] / "replay"), str(Path(__file__).parent)]

REAL, MEMORY = "real", "memory"
KINDS = [MEMORY] if os.environ.get("ANABRANCH_TEST_BROKER") == "memory" else [MEMORY, REAL]


@pytest.fixture(params=KINDS)
def kafka(request: pytest.FixtureRequest) -> Iterator[KafkaLab]:
    """A Kafka that the contract is held to."""
    from kafka_lab import KafkaLab, SteppedClock

    if request.param == REAL:
        lab = KafkaLab(request.getfixturevalue("broker"), memory=False)
        try:
            yield lab
        finally:
            lab.close()
        return
    with clock.use(SteppedClock()):
        lab = KafkaLab(MemoryKafka().cluster(), memory=True)
        try:
            yield lab
        finally:
            lab.close()
