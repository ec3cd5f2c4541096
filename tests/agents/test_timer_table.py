"""Timers in their table, against a dict: whatever is set, fired, rolled back or committed, the earliest is next."""

from __future__ import annotations

from typing import Any

from anabranch.agents.event_time import timer_queue
from anabranch.agents.tables.agent_step import AgentStep
from anabranch.agents.tables.timer_table import TimerTable, open_timers
from hypothesis import example, given, settings
from hypothesis import strategies as st

KEYS, NAMES = st.sampled_from(["k", "l", ("m", 1), 7]), st.sampled_from("ab")
SET, FIRE = st.tuples(st.just("set"), KEYS, NAMES, st.integers(0, 9)), st.just(("fire",))
OTHERS = [st.just((name,)) for name in ("savepoint", "undo", "freeze", "commit", "drop", "restore")]
STEPS = st.lists(
    st.one_of(SET, FIRE, SET, FIRE, *OTHERS, st.tuples(st.just("cancel"), KEYS, NAMES)), min_size=10, max_size=40
)


class Both:
    """The table, and the dict: the timers of each layer."""

    def __init__(self) -> None:
        self.step = AgentStep()
        self.table = TimerTable("watch-timers", step=lambda: self.step)
        self.table.add_partition(0)
        self.now = self.saved = self.frozen = self.stored = dict[Any, int]()
        self.position = 0
        self.committing: Any = None
        self.begin()

    def begin(self) -> None:
        self.step.begin("orders", 0, [])

    def set(self, key: Any, name: str, due: int) -> None:
        open_timers(self.table).set(key, name, due, {"due": due})
        self.now = {**self.now, (key, name): due}

    def cancel(self, key: Any, name: str) -> None:
        assert open_timers(self.table).cancel(key, name) is ((key, name) in self.now)
        self.now = {row: due for row, due in self.now.items() if row != (key, name)}

    def fire(self) -> None:
        keep = self.table.key_codec.keep
        expected = min(((due, keep(row), row) for row, due in self.now.items()), default=None)
        found = open_timers(self.table).first
        if expected is None or found is None:
            assert expected is found is None
            return
        assert (found.due_ms, (found.key, found.name), found.payload) == (
            expected[0],
            expected[2],
            {"due": expected[0]},
        )
        open_timers(self.table).remove(found)
        self.now = {row: due for row, due in self.now.items() if row != expected[2]}

    def savepoint(self) -> None:
        self.table.uncommitted.savepoint()
        self.saved = self.now

    def undo(self) -> None:
        self.table.uncommitted.discard_writes()
        self.now = self.saved

    def freeze(self) -> None:
        self.commit()
        self.step.end()
        self.committing = self.table.uncommitted.encode_epoch(lambda _: 1)
        self.table.uncommitted.freeze_epoch(self.committing)
        self.saved = self.frozen = self.now
        self.begin()

    def commit(self) -> None:
        if self.committing is not None:
            self.position += 1
            self.table.uncommitted.epoch_committed(dict.fromkeys(self.committing, self.position))
            self.committing, self.stored = None, self.frozen

    def drop(self) -> None:
        self.step.end()
        self.table.uncommitted.drop_epoch()
        self.now = self.saved = self.frozen = self.stored
        self.committing = None
        self.begin()

    def restore(self) -> None:
        self.drop()
        self.table.states[0].clear_cache()


@example([("set", "k", "a", 3), ("freeze",), ("commit",), ("fire",), ("savepoint",), ("drop",)], 10_000)
@given(STEPS, st.sampled_from([0, 10_000]))
@settings(max_examples=200, deadline=None)
def test_the_timer_that_is_due_next_is_that_of_a_dict(steps: list[Any], slack: int) -> None:
    before, timer_queue._SLACK = timer_queue._SLACK, slack  # with 0 the queue is made anew all the time
    try:
        both = Both()
        both.table.changelog_partitions = 1
        for name, *arguments in steps:
            getattr(both, name)(*arguments)
        while both.now:
            both.fire()
        both.fire()
    finally:
        timer_queue._SLACK = before
