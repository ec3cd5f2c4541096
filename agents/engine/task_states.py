"""The states of a task, as one transition table; the picture in `docs/architecture.md` is drawn from it.

- CREATED: the group has assigned partitions of the task to this worker. Stores are not opened yet.
- RESTORING: its stores are open, and the changelogs are applied to them up to their ends.
- RUNNING: its tables are complete. Agents process its records, and only now its progress is committed.
- SUSPENDED: its partitions were revoked. What agents did is committed, or dropped if a record was partly processed. The
  stores stay open until the next assignment shows whether the partitions return.
- POISONED: its partitions were lost, or this worker was fenced: others may own them. What is not committed is dropped,
  and must not be committed any more. Stores are never ahead of their changelogs, so they can be used again.
- STANDBY: its stores follow their changelogs while another worker owns the partitions.
- CLOSED: its stores are closed, and the worker has forgotten it.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["TRANSITIONS", "Event", "State", "mermaid", "state_after"]


class State(Enum):
    """A state of a task."""

    CREATED = "created"
    RESTORING = "restoring"
    RUNNING = "running"
    SUSPENDED = "suspended"
    POISONED = "poisoned"
    STANDBY = "standby"
    CLOSED = "closed"


class Event(Enum):
    """A change in the life of a task."""

    ASSIGN = "assign"
    RESTORE = "restore"
    RESTORED = "restored"
    REVOKE = "revoke"
    LOSE = "lose"
    STAND_BY = "stand by"
    CLOSE = "close"


_C, _R, _W, _S, _P, _Y, _X = State
_ASSIGN, _RESTORE, _RESTORED, _REVOKE, _LOSE, _STAND_BY, _CLOSE = Event

TRANSITIONS: dict[State, dict[Event, State]] = {
    _C: {_RESTORE: _R, _REVOKE: _S, _LOSE: _P, _STAND_BY: _Y},
    _R: {_RESTORED: _W, _REVOKE: _S, _LOSE: _P},
    _W: {_REVOKE: _S, _LOSE: _P},
    _S: {_ASSIGN: _C, _STAND_BY: _Y, _CLOSE: _X},
    _P: {_ASSIGN: _C, _STAND_BY: _Y, _CLOSE: _X},
    _Y: {_ASSIGN: _C, _CLOSE: _X},
    _X: {},
}
"""State -> event -> next state. What is not in here is an error of the engine."""


def state_after(state: State, event: Event) -> State:
    """Return the state of a task after an event.

    Raises:
        AssertionError: the event cannot happen in this state.
    """
    after = TRANSITIONS[state].get(event)
    assert after is not None, f"a task that is {state.name} cannot {event.value}"
    return after


def mermaid() -> str:
    """Return the table as a diagram in Mermaid's language."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.CREATED.name}"]
    for state, after in TRANSITIONS.items():
        lines += [f"    {state.name} --> {then.name}: {event.value}" for event, then in after.items()]
    return "\n".join([*lines, f"    {State.CLOSED.name} --> [*]"])
