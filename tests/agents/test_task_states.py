"""The table of a task's states, and the picture that the docs draw of it."""

from __future__ import annotations

from pathlib import Path

import anabranch
import pytest
from anabranch.agents.engine.task_states import TRANSITIONS, Event, State, mermaid, state_after

ROOT = Path(anabranch.__file__).parent


def test_the_picture_in_the_docs_is_drawn_from_the_table() -> None:
    assert f"```mermaid\n{mermaid()}\n```" in (ROOT / "docs/architecture.md").read_text()


def test_each_state_can_be_reached_and_left_except_the_last() -> None:
    reached, new = {State.CREATED}, [State.CREATED]
    while new:
        found = set(TRANSITIONS[new.pop()].values()) - reached
        reached |= found
        new += found
    assert reached == set(State)
    assert [state for state in State if not TRANSITIONS[state]] == [State.CLOSED]


def test_what_agents_have_done_is_committed_only_while_the_task_is_owned() -> None:
    owned = {State.CREATED, State.RESTORING, State.RUNNING}
    for state, after in TRANSITIONS.items():
        assert (Event.REVOKE in after) == (Event.LOSE in after) == (state in owned)
        assert (Event.CLOSE in after) == (state in {State.SUSPENDED, State.POISONED, State.STANDBY})


def test_an_owned_task_runs_only_after_a_restore() -> None:
    assert [state for state, after in TRANSITIONS.items() if State.RUNNING in after.values()] == [State.RESTORING]


def test_what_cannot_happen_is_an_error() -> None:
    with pytest.raises(AssertionError, match="a task that is CLOSED cannot assign"):
        state_after(State.CLOSED, Event.ASSIGN)
