"""Merging by time gives one order for all batch sizes, and resumes at any position."""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from anabranch.replay.pipeline.cursor import Cursor
from anabranch.replay.pipeline.merge import MergedSource
from anabranch.replay.pipeline.out_of_order import OutOfOrder
from anabranch.replay.pipeline.pipeline import Pipeline
from anabranch.replay.replay_report import Counters
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.source import Part, Source, SourceBatch, SourcePosition
from anabranch.replay.sources.source_record import BadLine, SourceRecord
from anabranch.topics.errors import Stop, Usage
from hypothesis import given, settings
from hypothesis import strategies as st

# A line is a time, or bad (-1), or blank (-2); an item's value tells where it stood.
Lines = list[int]


@dataclass
class Listed:
    """A source over a list of lines, so many a batch."""

    name: str
    lines: Lines
    batch: int
    at: int = 0
    poll_again_s: float = 0.0
    done_bytes: int = 0

    @property
    def ended(self) -> bool:
        return self.at >= len(self.lines)

    @property
    def begins(self) -> SourcePosition:
        return {"at": self.at}

    def next_batch(self) -> SourceBatch:
        items: list[SourceRecord] = []
        bad: list[BadLine] = []
        blank = 0
        for number in range(self.at, min(self.at + self.batch, len(self.lines))):
            time = self.lines[number]
            if time == -1:
                bad.append(BadLine(self.name, number + 1, "bad", b""))
            elif time == -2:
                blank += 1
            else:
                items.append((None, f"{self.name}{number}".encode(), time, None, None))
        self.at = min(self.at + self.batch, len(self.lines))
        return SourceBatch(items, {"at": self.at}, bad, blank)

    def close(self) -> None:
        pass


def part(name: str, lines: Lines, batch: int | None = None) -> Part:
    def open_at(position: SourcePosition | None, batch_lines: int) -> Source:
        return Listed(name, lines, batch or batch_lines, (position or {"at": 0})["at"])

    return Part(name, len(lines), open_at)


@dataclass
class Gone:
    """What a reader got."""

    values: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    blank: int = 0
    position: SourcePosition = field(default_factory=dict)

    def read(self, source: Source, batches: int | None = None) -> Source:
        while not source.ended and batches != 0:
            batch = source.next_batch()
            self.values += [(item[1] or b"").decode() for item in batch.records]
            self.bad += [line.position for line in batch.bad]
            self.blank += batch.blank
            self.position = batch.after
            batches = None if batches is None else batches - 1
        return source

    def stored(self, source: Source) -> SourcePosition:
        return json.loads(json.dumps(self.position or source.begins))

    def tell(self, bad: Sequence[BadLine], blank: int) -> None:
        self.bad += [line.position for line in bad]
        self.blank += blank


def heads_first(parts: dict[str, Lines]) -> list[str]:
    """The dumb twin: always the part whose next record is earliest."""
    lanes = {name: [(t, f"{name}{n}") for n, t in enumerate(lines) if t >= 0] for name, lines in parts.items()}
    found: list[str] = []
    while any(lanes.values()):
        name = min((name for name in lanes if lanes[name]), key=lambda name: (lanes[name][0][0], name))
        found.append(lanes[name].pop(0)[1])
    return found


a_line = st.one_of(st.integers(1, 12), st.sampled_from([-1, -2]))
some_parts = st.lists(st.lists(a_line, max_size=12), min_size=1, max_size=4).map(
    lambda found: {f"{'abcd'[i]}": lines for i, lines in enumerate(found)}
)


@given(some_parts, st.integers(1, 5), st.integers(1, 5), st.booleans(), st.data())
@settings(max_examples=75, deadline=None)
def test_one_order_whatever_the_batches_and_resumed_after_every_batch(
    parts: dict[str, Lines], batch: int, other: int, in_order: bool, data: st.DataObject
) -> None:
    if in_order:
        parts = {name: sorted(lines) for name, lines in parts.items()}
    given_ = [part(name, lines, batch) for name, lines in parts.items()]
    whole = Gone()
    source = MergedSource(data.draw(st.permutations(given_)))
    positions: list[tuple[SourcePosition, int, int, int]] = []
    while not source.ended:
        positions.append((whole.stored(source), len(whole.values), len(whole.bad), whole.blank))
        whole.read(source, 1)
    assert whole.values == heads_first(parts)
    assert len(whole.bad) == sum(lines.count(-1) for lines in parts.values())
    for position, values, bad, blank in positions:
        rest = Gone()
        rest.read(MergedSource([part(name, lines, other) for name, lines in parts.items()], position))
        assert rest.values == whole.values[values:]
        assert (len(rest.bad), rest.blank) == (len(whole.bad) - bad, whole.blank - blank)


@given(some_parts, st.integers(1, 5), st.integers(1, 5), st.integers(1, 6))
@settings(max_examples=75, deadline=None)
def test_sorted_within_a_buffer_or_refused_and_resumed_after_every_batch(
    parts: dict[str, Lines], batch: int, other: int, records: int
) -> None:
    out_of_order = OutOfOrder("sort", records)
    whole, positions = Gone(), list[tuple[SourcePosition, int, int]]()
    source = MergedSource([part(name, lines, batch) for name, lines in parts.items()], out_of_order=out_of_order)
    expected = [
        value
        for _, _, _, value in heapq.merge(
            *(
                sorted((t, name, n, f"{name}{n}") for n, t in enumerate(lines) if t >= 0)
                for name, lines in parts.items()
            )
        )
    ]
    try:
        while not source.ended:
            positions.append((whole.stored(source), len(whole.values), len(whole.bad)))
            whole.read(source, 1)
    except Stop:
        assert any(len(lines) > records for lines in parts.values()), "all of it fits"
        return
    assert whole.values == expected
    for position, values, bad in positions:
        rest = Gone()
        again = [part(name, lines, other) for name, lines in parts.items()]
        try:
            rest.read(MergedSource(again, position, out_of_order=out_of_order))
        except Stop:  # with other batches the buffer may reach less far
            assert other != batch
            continue
        assert rest.values == whole.values[values:]
        assert len(rest.bad) == len(whole.bad) - bad


def test_a_cursor_goes_on_between_any_two_records() -> None:
    lines = [1, -1, 2, 3, -2, -1, 4, 5, 6]
    for given_ in range(7):
        cursor, got = Cursor(lambda at: part("a", lines, 4).open(at, 0)), Gone()
        while len(got.values) < given_:
            if cursor.used_up:
                got.tell(*cursor.fill())
            else:
                got.values.append((cursor.records[cursor.taken][1] or b"").decode())
                cursor.taken += 1
        for batch in (1, 2, 9):
            rest = Cursor(lambda at, n=batch: part("a", lines, n).open(at, 0), cursor.snapshot())
            assert rest.snapshot() == cursor.snapshot(), "also before anything is read again"
            values: list[str] = []
            told = Gone()
            while not (rest.last and rest.used_up):
                told.tell(*rest.fill())
                values += [(item[1] or b"").decode() for item in rest.records[rest.taken :]]
                rest.taken = len(rest.records)
            assert [*got.values, *values] == ["a0", "a2", "a3", "a6", "a7", "a8"]
            assert len(got.bad) + len(told.bad) == 2
            assert got.blank + told.blank == 1


def test_a_late_record_is_refused_with_its_place() -> None:
    source = MergedSource([part("a", [1_000, 2_000, 1_500], 2), part("b", [3_000])], out_of_order=OutOfOrder("fail"))
    with pytest.raises(Stop, match=r"a: record 3 is out of order: its time 1970-01-01T00:00:01.500Z is 500 ms before"):
        Gone().read(source)


def test_late_records_that_are_accepted_are_counted() -> None:
    counters = Counters()
    Gone().read(MergedSource([part("a", [5, 1, 4, 6]), part("b", [2, 3])], counters=counters))
    assert (counters.out_of_order, counters.out_of_order_ms) == (2, 4)


def test_many_parts_are_opened_when_they_are_due() -> None:
    days, opened, most = 40, set[str](), 0

    def day(number: int) -> Part:
        inner = part(f"day{number:02d}", [number * 10 + n for n in range(1, 9)])

        def open_at(position: SourcePosition | None, batch_lines: int) -> Source:
            nonlocal most
            found = inner.open(position, batch_lines)
            opened.add(inner.name)
            most = max(most, len(opened))

            def close() -> None:
                opened.discard(inner.name)

            found.close = close  # type: ignore[method-assign]
            return found

        return Part(inner.name, 8, open_at)

    got = Gone()
    got.read(MergedSource([day(number) for number in range(days)]))
    assert len(got.values) == 8 * days
    assert most <= 2


def test_files_are_merged_where_their_records_have_times(tmp_path: Path) -> None:
    for name, hours in (("b.csv", (1, 3, 5)), ("a.csv", (1, 2, 6))):
        rows = "".join(f"2013-01-01T{hour:02d}:00:00Z,{name[0]}{hour}\n" for hour in hours)
        (tmp_path / name).write_text("at,n\n" + rows)
    history = find_history([str(tmp_path / "b.csv"), str(tmp_path / "a.csv")], Format(time="at", key="n"))

    def keys(pipeline: Pipeline) -> list[str]:
        source, found = pipeline.open(history), list[str]()
        while not source.ended:
            found += [(item[0] or b"").decode() for item in source.next_batch().records]
        return found

    assert keys(Pipeline()) == ["a1", "b1", "a2", "b3", "b5", "a6"]
    assert keys(Pipeline(order="source")) == ["b1", "b3", "b5", "a1", "a2", "a6"]
    assert Pipeline().identity(history) != Pipeline(order="source").identity(history)


def test_what_needs_times_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    history = find_history([str(tmp_path / "a.txt")], Format())
    with pytest.raises(Usage, match="--out-of-order sort needs records with times"):
        Pipeline(out_of_order=OutOfOrder.parse("sort:5")).checked(history)
    with pytest.raises(Usage, match="socket"):
        Pipeline(order="time").checked(find_history(["tcp://localhost:9"], Format(kind="jsonl", time="t")))
    with pytest.raises(Usage, match="expected accept"):
        OutOfOrder.parse("drop")
