"""What tests of replays share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from anabranch.replay import player
from anabranch.topics.producer import Aborted, TransactionalProducer

sys.path.insert(0, str(Path(__file__).parent))  # what tests share stands beside them


@pytest.fixture
def unlucky(monkeypatch: pytest.MonkeyPatch) -> None:
    """Players whose every other transaction is aborted by Kafka, the first one included."""

    class Unlucky(TransactionalProducer):
        commits = 0

        def commit(self) -> None:
            Unlucky.commits += 1
            if Unlucky.commits % 2:
                self.flush()
                self.abort()
                raise Aborted("by the test")
            super().commit()

    monkeypatch.setattr(player, "TransactionalProducer", Unlucky)
