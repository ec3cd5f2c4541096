"""Compares two histories: record counts, an order-independent digest, and the first differences.

Memory is bounded: a first pass sums the records' digests by bucket (of the key's hash). Only if sums differ are both
sides read again, and only the digests of those buckets are kept, until equal ones cancel. Tables are the exception:
their last values are compared, and those are kept in memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from zlib import crc32

import msgspec

from ..sources.source_record import SourceRecord
from .comparison_side import ComparisonSide

__all__ = ["Compared", "Difference", "Tally", "digest_of", "verify"]

_BUCKETS = 4_096
_MASK = (1 << 128) - 1
# Number of digests that are kept to find the first differences; more if a single bucket has more.
_KEPT = 200_000
_EXAMPLES = 3

# Encodes the compared fields of a record; different records have different encodings.
_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class Tally:
    """The result of reading one side once.

    Attributes:
        digest: equal for the same records in any order.
        unreadable: number of lines and rows that are not records; `examples` are the first of them.
    """

    name: str
    records: int = 0
    unreadable: int = 0
    examples: list[str] = field(default_factory=list[str])
    sums: list[int] = field(default_factory=lambda: [0] * _BUCKETS)
    counts: list[int] = field(default_factory=lambda: [0] * _BUCKETS)

    @property
    def digest(self) -> str:
        """The digest of all records, as 32 hexadecimal digits."""
        return f"{sum(self.sums) & _MASK:032x}"


@dataclass(frozen=True, slots=True)
class Difference:
    """A record that one side has more often than the other.

    Attributes:
        only_in: name of that side.
        position: file and line, or topic, partition and offset.
    """

    only_in: str
    position: str
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Compared:
    """The result of a comparison. `fields` are the compared fields of each record."""

    a: Tally
    b: Tally
    fields: tuple[str, ...]
    differences: list[Difference]

    @property
    def same(self) -> bool:
        """True if both have the same records, each as often, and nothing that cannot be read."""
        return self.equal and not (self.a.unreadable or self.b.unreadable)

    @property
    def equal(self) -> bool:
        """True if the readable records are the same."""
        return self.a.records == self.b.records and self.a.digest == self.b.digest


class _Digests:
    """Computes the digests of records, as integers."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        self._time, self._partition = "time" in fields, "partition" in fields

    def of(self, record: SourceRecord) -> int:
        key, value, time, headers, partition = record
        compared = (key, value, list(headers) if headers else None)
        if self._time:
            compared += (time,)
        if self._partition:
            compared += (partition,)
        return int.from_bytes(hashlib.blake2b(_encode(compared), digest_size=16).digest(), "big")


def verify(a: ComparisonSide, b: ComparisonSide, *, most: int = 10) -> Compared:
    """Compare two sides (blocking).

    Args:
        most: maximum number of differences to report for each side.

    Raises:
        Stop: a side cannot be read.
    """
    fields = ("key", "value", "headers")
    if a.timed and b.timed:
        fields += ("time",)
    if a.partitions is not None and a.partitions == b.partitions:
        fields += ("partition",)
    digests = _Digests(fields)
    tallies = _tally(a, digests), _tally(b, digests)
    compared = Compared(*tallies, fields, [])
    if not compared.equal:
        compared.differences.extend(_differences(a, b, tallies, digests, most))
    return compared


def digest_of(side: ComparisonSide) -> tuple[int, str]:
    """Return the number of records of a side, and the digest of their keys, values, headers and times (blocking).

    Raises:
        Stop: it cannot be read.
    """
    tally = _tally(side, _Digests(("key", "value", "headers", *(["time"] if side.timed else []))))
    return tally.records, tally.digest


def _bucket(record: SourceRecord) -> int:
    return crc32(record[0] if record[0] is not None else record[1] or b"") % _BUCKETS


def _tally(side: ComparisonSide, digests: _Digests) -> Tally:
    tally = Tally(side.name)
    sums, counts = tally.sums, tally.counts
    for batch in side.batches():
        for record in batch.records:
            bucket = _bucket(record)
            sums[bucket] += digests.of(record)
            counts[bucket] += 1
        tally.records += len(batch.records)
        tally.unreadable += len(batch.unreadable)
        tally.examples += batch.unreadable[: _EXAMPLES - len(tally.examples)]
    tally.sums = [total & _MASK for total in sums]
    return tally


def _differences(
    a: ComparisonSide, b: ComparisonSide, tallies: tuple[Tally, Tally], digests: _Digests, most: int
) -> Iterator[Difference]:
    wanted: set[int] = set()
    kept = 0
    for bucket in range(_BUCKETS):
        here, there = ((tally.sums[bucket], tally.counts[bucket]) for tally in tallies)
        if here != there:
            held = here[1] + there[1]
            if not wanted or kept + held <= _KEPT:
                wanted.add(bucket)
                kept += held
    surplus: Counter[int] = Counter()
    for side, sign in ((a, 1), (b, -1)):
        for batch in side.batches():
            for record in batch.records:
                if _bucket(record) in wanted:
                    surplus[digests.of(record)] += sign
    for side, sign in ((a, 1), (b, -1)):
        yield from _first(side, {d: n * sign for d, n in surplus.items() if n * sign > 0}, digests, most)


def _first(side: ComparisonSide, more: dict[int, int], digests: _Digests, most: int) -> Iterator[Difference]:
    """Yield the first records that a side has more often than the other; `more` counts them by digest."""
    found = 0
    if not more:
        return
    for batch in side.batches():
        for i, record in enumerate(batch.records):
            digest = digests.of(record)
            if more.get(digest, 0) > 0:
                more[digest] -= 1
                yield Difference(side.name, batch.position(i), record[0], record[1])
                found += 1
                if found >= most:
                    return
