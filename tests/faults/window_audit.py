"""The audit of the windows over transfers: computed from the logs as they are, in plain Python.

Which transfers are late, and what windows hold, follows from the log of each partition. So the audit reads these logs,
and compares: late records, the content of the tables, and the windows that were sent, each once. In each table, the
counts of all windows and the late records are together all transfers.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from anabranch.agents.tables.stream_time import STREAM_TIME
from anabranch.topics.admin import Admin
from anabranch.topics.cluster import Cluster
from audit import _compare, read, values_of
from bank import GAP_MS, GRACE_MS, WINDOW_MS, Transfer, time_of

__all__ = ["FINALS", "WindowAudit"]

BY_KEY, IN_PLACE = "by-source", "visits"
FINALS = ("by-source-closed", "visits-closed")
"""The topics of closed windows: of tumbling windows behind `key_by`, and of sessions where the records are."""

Window = tuple[str, int, int]


@dataclass
class _Expected:
    """The expected windows of a table, and its late transfers.

    Attributes:
        rows: window -> numbers of its transfers.
        late: numbers of the late transfers.
        closed: the windows that are closed.
    """

    rows: dict[Window, list[int]] = field(default_factory=dict)
    late: list[int] = field(default_factory=list)
    closed: list[Window] = field(default_factory=list)


class WindowAudit:
    """Expects what follows from the logs of transfers.

    Args:
        topics: prefix of the topics.
        tables: prefix of the changelogs.
        ended: the input has ended, so that all windows are closed.
    """

    def __init__(self, cluster: Cluster, topics: str, tables: str, *, ended: bool) -> None:
        self._cluster, self._topics, self._tables = cluster, topics, tables
        logs: dict[int, list[Transfer]] = defaultdict(list)
        for message in read(cluster, f"{topics}-transfers"):
            for value in values_of(message):
                try:
                    logs[message.partition()].append(msgspec.json.decode(value, type=Transfer))
                except msgspec.DecodeError:
                    continue  # it is skipped
        self._records = sum(map(len, logs.values()))
        partitions = Admin(cluster).partitions([f"{topics}-transfers"])[f"{topics}-transfers"]
        self._expected = {
            BY_KEY: _by_key(logs, partitions, ended=ended),
            IN_PLACE: _in_place(logs, ended=ended),
        }

    @property
    def _late_topic(self) -> str:
        return f"{self._topics}-transfers.late"

    def complete_within(self, seconds: float) -> bool:
        """Wait until as many windows were sent, and as many records are late, as there have to be (blocking)."""
        deadline_s = time.monotonic() + seconds
        while not self._is_complete():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.5)
        return True

    def _is_complete(self) -> bool:
        expected = self._expected.values()
        closed, late = sum(len(one.closed) for one in expected), sum(len(one.late) for one in expected)
        sent = sum(len(list(read(self._cluster, f"{self._topics}-{topic}"))) for topic in FINALS)
        return sent >= closed and len(self._late()) >= late

    def _late(self) -> list[Any]:
        known = self._late_topic in Admin(self._cluster).partitions()
        return list(read(self._cluster, self._late_topic)) if known else []

    def differences(self) -> list[str]:
        """Return the differences from what is in Kafka."""
        wrong: list[str] = []
        late: dict[str, list[int]] = {BY_KEY: [], IN_PLACE: []}
        for message in self._late():
            headers = dict(message.headers())
            if headers["anabranch-reason"] != b"late":
                wrong.append(f"a record on time met a closed window: {headers}")
            number = msgspec.json.decode(message.value(), type=Transfer).number
            late[headers["anabranch-operator"].decode()].append(number)
        for topic, (table, expected) in zip(FINALS, self._expected.items(), strict=True):
            wrong += _compare(f"late for {table}", expected.late, late[table])
            rows = self._rows(table)
            wanted = {window: _row(numbers) for window, numbers in expected.rows.items()}
            wrong += _compare(f"windows of {table}", list(wanted.items()), list(rows.items()))
            counted = sum(n for n, _ in rows.values()) + len(late[table])
            if counted != self._records:
                wrong.append(f"{table}: {counted} transfers are in windows or late, of {self._records}")
            sent = [_closed(message.value()) for message in read(self._cluster, f"{self._topics}-{topic}")]
            wrong += _compare(
                f"closed windows of {table}", [(w, *_row(expected.rows[w])) for w in expected.closed], sent
            )
        return wrong

    def _rows(self, table: str) -> dict[Window, tuple[int, int]]:
        rows: dict[Window, tuple[int, int]] = {}
        for message in read(self._cluster, f"{self._tables}-{table}-changelog"):
            if message.key() == STREAM_TIME:
                continue
            window = tuple(msgspec.json.decode(message.key()))
            if message.value() is None:
                rows.pop(window, None)
            else:
                value = msgspec.json.decode(message.value())
                rows[window] = value["n"], value["numbers"]
        return rows


def _row(numbers: list[int]) -> tuple[int, int]:
    return len(numbers), sum(numbers)


def _closed(value: bytes) -> tuple[Window, int, int]:
    found = msgspec.json.decode(value)
    return (found["key"], found["start"], found["end"]), found["n"], found["numbers"]


def _judged(log: Iterable[Transfer], horizon: Any) -> tuple[list[tuple[Transfer, int]], list[int], int | None]:
    """Return the transfers of a partition that are on time, with their times; the numbers of the others; and the
    watermark behind them."""
    on_time, late, latest = list[tuple[Transfer, int]](), list[int](), None
    for transfer in log:
        at = time_of(transfer)
        if latest is not None and latest - GRACE_MS > horizon(at):
            late.append(transfer.number)
        else:
            on_time.append((transfer, at))
        latest = at if latest is None else max(latest, at)
    return on_time, late, None if latest is None else latest - GRACE_MS


def _by_key(logs: dict[int, list[Transfer]], partitions: int, *, ended: bool) -> _Expected:
    expected, watermarks = _Expected(), list[int | None]()
    for partition in range(partitions):
        on_time, late, watermark = _judged(logs[partition], lambda at: at - at % WINDOW_MS + WINDOW_MS - 1)
        expected.late += late
        watermarks.append(watermark)
        for transfer, at in on_time:
            start = at - at % WINDOW_MS
            expected.rows.setdefault((transfer.source, start, start + WINDOW_MS), []).append(transfer.number)
    known = [watermark for watermark in watermarks if watermark is not None]
    for window in expected.rows:
        if ended or (len(known) == partitions and window[2] - 1 < min(known)):
            expected.closed.append(window)
    return expected


def _in_place(logs: dict[int, list[Transfer]], *, ended: bool) -> _Expected:
    expected = _Expected()
    for log in logs.values():
        on_time, late, watermark = _judged(log, lambda at: at)
        expected.late += late
        by_source: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for transfer, at in on_time:
            by_source[transfer.source].append((at, transfer.number))
        for source, found in by_source.items():
            sessions: list[list[tuple[int, int]]] = []
            for at, number in sorted(found):
                if not sessions or at - sessions[-1][-1][0] > GAP_MS:
                    sessions.append([])
                sessions[-1].append((at, number))
            for session in sessions:
                first, last = session[0][0], session[-1][0]
                expected.rows[source, first, last + 1] = [number for _, number in session]
                if ended or (watermark is not None and last + GAP_MS < watermark):
                    expected.closed.append((source, first, last + 1))
    return expected
