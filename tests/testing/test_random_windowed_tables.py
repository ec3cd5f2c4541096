"""Random logs and schedules: windows that an agent writes (Faust's) are what a dumb twin (`window_twin.py`) says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anabranch
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_random_windows import KINDS, LOGS, SECOND, SECONDS, STEPS, Case, examples, play
from window_twin import Kind, Result, Sale, closed_by, computed, stream_times

pytestmark = pytest.mark.timeout(180 + 8 * SECONDS)


class AgentCase(Case):
    """An app whose agent writes the windows, record by record; `by_key`: behind `group_by`."""

    def app(self) -> anabranch.App:
        app = anabranch.App("random", topic_partitions=len(self.logs))
        sales = app.topic(
            "sales", time="at", max_jump=None if self.max_jump is None else self.max_jump / SECOND, idle_after=None
        )
        finals = app.topic("finals", partitions=1)

        async def report(key: Any, value: Any) -> None:
            user, (start, end) = key
            window = {"key": user, "start": round(start * SECOND), "end": round(end * SECOND)}
            await finals.send(key=user, value={**window, **value})

        table = app.Table("windows", default=lambda: {"n": 0, "total": 0}, on_window_close=report)
        size, step = self.kind.size / SECOND, self.kind.step / SECOND
        expires = size + self.grace / SECOND
        windows = table.hopping(size, step, expires=expires) if step else table.tumbling(size, expires=expires)

        @app.agent(sales)
        async def count(stream: Any) -> None:
            async for sale in stream.group_by(lambda sale: sale["user"], name="user") if self.by_key else stream:
                if sale["price"] != "free":
                    windows[sale["user"]].apply(added, sale["price"])

        return app

    @property
    def results(self) -> list[Result]:
        """The results of the twin: one of all partitions together, or one of each."""
        return super().results if self.by_key else [self._written(log) for log in self.logs]

    def _written(self, log: Sequence[Sale]) -> Result:
        """Return the result of a log whose records reach the agent where they are: time begins with its first write,
        and windows close before the record that closes them is judged."""
        counts = [sale.at is not None and sale.price != "free" for sale in log]
        first = counts.index(True) if True in counts else len(log)
        times = stream_times([sale.at for sale in log[first:]], self.max_jump)[1:]
        on_time, late = list[Sale](), list[tuple[int, int]]()
        for place, (sale, now) in enumerate(zip(log[first:], times, strict=True), first):
            if not counts[place]:
                continue
            assert sale.at is not None
            if now is not None and now - self.grace > self.kind.horizon(sale.at):
                late.append((0, place))
            else:
                on_time.append(sale)
        watermark = times[-1] - self.grace if times and times[-1] is not None else None
        return Result(computed([on_time], self.kind, 2**60, None).rows, late, [watermark])


def added(value: dict[str, int], price: int) -> dict[str, int]:
    return {"n": value["n"] + 1, "total": value["total"] + price}


def case_of(logs: list[list[Sale]], kind: Kind, grace: int, max_jump: int | None, by_key: bool) -> AgentCase:
    if not by_key:  # a key of two partitions would be two rows of one name
        logs = [[sale._replace(user=f"{sale.user}{number}") for sale in log] for number, log in enumerate(logs)]
    return AgentCase(logs, kind, grace, max_jump, by_key)


CASES = st.builds(
    case_of,
    LOGS,
    KINDS.filter(lambda kind: kind.name in ("tumbling", "hopping")),
    st.sampled_from([0, 0, 2 * SECOND, 12 * SECOND]),
    st.sampled_from([None, 30 * SECOND]),
    st.booleans(),
)


@examples(1, few=8)
@given(CASES, STEPS)
def test_an_agent_s_windows_are_those_of_the_twin_whatever_the_schedule(
    case: AgentCase, steps: list[tuple[str, int]]
) -> None:
    rows, late, closed = dict[Any, Any](), list[tuple[int, int]](), list[Any]()
    for number, result in enumerate(case.results):
        rows |= result.rows
        late += result.late if case.by_key else [(number, place) for _, place in result.late]
        known = [watermark for watermark in result.watermarks if watermark is not None]
        if known and len(known) == len(result.watermarks):
            closed += [(row, result.rows[row]) for row in closed_by(result, case.kind, min(known))]
    found_rows, finals, found_late = play(case, steps)
    assert found_late == sorted(late)
    assert sorted(finals) == sorted(closed)
    assert {row: rows[row] for row in found_rows} == found_rows
    assert {row for row in rows if row not in dict(closed)} <= set(found_rows), "closed ones expire"
