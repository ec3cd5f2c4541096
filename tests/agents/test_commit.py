"""What a committer does with a client that is finished without saying so."""

from __future__ import annotations

import pytest
from anabranch.agents.engine.commit import AtLeastOnce, EpochPlan
from anabranch.agents.engine.effects import Output
from anabranch.topics import pulse
from anabranch.topics.client import Cluster
from anabranch.topics.errors import Hung


def test_without_transactions_a_client_that_delivers_nothing_is_found_out_too(
    broker: Cluster, free_port, monkeypatch
) -> None:
    # A producer that nobody answers, of a cluster that does: as one that has forgotten all of its brokers.
    committer = AtLeastOnce(Cluster(f"127.0.0.1:{free_port()}", {"log_level": "0"}), None)
    monkeypatch.setattr(committer, "_cluster", broker)
    monkeypatch.setattr(pulse, "HUNG_S", 0.5)
    plan = EpochPlan([Output("nowhere", b"1", None, 0, 0, None)], {}, [], None)
    with pytest.raises(Hung):
        committer.commit(plan)
    committer.close()
    assert not committer._kafka.flush(10), "what it had is forgotten"
