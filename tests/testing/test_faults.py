"""Plans of faults: a seed decides them, and their text form gives them back."""

from __future__ import annotations

import pytest
from anabranch.replay.testing.faults import FAULT_KINDS, STORE, Fault, Moment, Plan, draw, fault_kinds
from anabranch.topics.errors import Usage

CENSUS = {
    (worker, operation): 40
    for worker in range(2)
    for operation in (
        *("begin_transaction", "produce", "flush", "send_offsets_to_transaction", "commit_transaction"),
        *("consume", "committed", "init_transactions", STORE),
    )
}


def drawn(seed: int, *kinds: str) -> Plan:
    return draw(seed, kinds or tuple(FAULT_KINDS), census=CENSUS, workers=2, seconds=3.0)


def test_a_seed_decides_the_plan() -> None:
    assert drawn(7) == drawn(7)
    assert len({str(drawn(seed)) for seed in range(50)}) > 45


@pytest.mark.parametrize("seed", range(100))
def test_the_text_of_a_plan_gives_it_back(seed: int) -> None:
    plan = drawn(seed)
    assert Plan.parse(str(plan)) == plan


def test_a_plan_without_faults() -> None:
    assert str(Plan()) == "no faults"
    assert Plan.parse("no faults") == Plan.parse("") == Plan()


def test_a_plan_reads_as_a_sentence() -> None:
    faults = (
        Fault("kill", "restart", 0, Moment("commit_transaction", 3, after=True)),
        Fault("broker-away", "0.5s", 1, Moment("produce", 12)),
        Fault("rebalance", "leave", 1, Moment(at_s=1.0)),
    )
    text = "kill:restart w0 after commit_transaction 3; broker-away:0.5s w1 before produce 12; rebalance:leave w1 at 1s"
    assert str(Plan(faults)) == text
    assert faults[1].seconds == 0.5


@pytest.mark.parametrize("text", ["kill", "kill:restart w0", "kill:softly w0 at 1s", "nap w0 at 1s", "abort w0 at 1s"])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="not a fault"):
        Plan.parse(text)


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_each_kind_is_drawn_with_each_of_its_variants_and_at_calls_that_happen(kind: str) -> None:
    faults = [fault for seed in range(200) for fault in drawn(seed, kind).faults]
    assert {fault.variant for fault in faults} == set(FAULT_KINDS[kind].variants)
    called = [fault for fault in faults if fault.moment.operation]
    assert called
    for fault in called:
        assert fault.moment.operation in FAULT_KINDS[kind].operations
        assert 1 <= fault.moment.nth <= CENSUS[fault.worker, fault.moment.operation]
    assert any(not fault.moment.operation for fault in faults) == FAULT_KINDS[kind].timed


def test_kinds_are_asked_for_by_name() -> None:
    assert fault_kinds("kill, lost-answer") == ("kill", "lost-answer")
    assert fault_kinds(["abort", "abort"]) == ("abort",)
    assert "damage" not in fault_kinds("all")
    assert "damage" in fault_kinds("all", on_disk=True)
    assert "cut" not in fault_kinds("all", on_disk=True)
    with pytest.raises(Usage, match="no kind of fault 'kil'"):
        fault_kinds("kil")
    with pytest.raises(Usage, match="needs a table on disk"):
        fault_kinds("damage")
