"""The report of a replay describes the columns of its first records, plain and packed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from anabranch.replay.cli.replay_output import show_rejected, show_replay
from anabranch.replay.player import Player
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format


class Order(msgspec.Struct):
    user: str
    amount: Annotated[int, msgspec.Meta(ge=0)]


@pytest.mark.parametrize("pack", [None, "lz4"])
def test_nulls_least_and_largest_values_and_what_the_type_refuses(
    broker: Any, fresh: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], pack: Any
) -> None:
    path = tmp_path / "orders.csv"
    path.write_text("user,amount\nann,3\nbob,-4\n,12\n")
    history = find_history([str(path)], Format())
    report = Player(broker, history, fresh("orders"), pack=pack, value_type=Order).play()
    user, amount = report.profile.columns["user"], report.profile.columns["amount"]
    assert (report.profile.records, user.nulls, user.minimum, user.maximum, user.refused) == (3, 1, "ann", "bob", 1)
    assert (amount.nulls, amount.minimum, amount.maximum, amount.refused) == (0, -4, 12, 1)
    show_replay(report)
    show_rejected(report)
    said = " ".join(capsys.readouterr().out.split())
    assert "amount: -4 … 12, no nulls, 1 rejected by the topic's type: Expected `int` >= 0" in said
    assert "figures of all 3 records:" in said
    assert "column amount: the topic's type rejects 1 value of all 3 records" in said
