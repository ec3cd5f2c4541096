"""Partitioners: the partition of a key, the same for every producer.

Keys are partitioned by hash unless a topic declares otherwise. Kafka's Java client hashes keys with its own murmur2;
librdkafka does so only when asked (`partitioner=murmur2_random`), and its default is another hash. All producers of
this project use murmur2, so a key has the same partition as with the Java client.

A topic may be partitioned by range: then keys are in order, partition after partition. The cluster keeps the ranges of
such topics; see `partitioner_registry.py`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

from .arrow_numpy import as_numpy
from .errors import Usage

if TYPE_CHECKING:
    import numpy
    import pyarrow

__all__ = [
    "HashPartitioner",
    "Partitioner",
    "RangePartitioner",
    "key_bytes",
    "murmur2",
    "murmur2_partition",
    "partitions_of_column",
]

_M = 0x5BD1E995
_SEED = 0x9747B28C
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit murmur2 of `data`, as an unsigned number (org.apache.kafka.common.utils.Utils.murmur2)."""
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little")
        k = k * _M & _MASK
        k ^= k >> 24
        k = k * _M & _MASK
        h = (h * _M & _MASK) ^ k
    tail = data[whole:]
    if tail:
        h ^= int.from_bytes(tail, "little")
        h = h * _M & _MASK
    h ^= h >> 13
    h = h * _M & _MASK
    return h ^ (h >> 15)


def _python_place(key: bytes, partitions: int) -> int:
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def _fastest_place() -> Callable[[bytes, int], int]:
    try:
        from confluent_kafka import murmur2 as murmur2_partition
    except ImportError:
        return _python_place  # confluent-kafka before 2.13
    return murmur2_partition


murmur2_partition = _fastest_place()
"""Return the partition of a key: its murmur2 hash without the sign bit, modulo the number of partitions."""


@dataclass(frozen=True, slots=True)
class HashPartitioner:
    """Partitions keys by their hash.

    >>> HashPartitioner(4).partition(b"foobar")
    2
    """

    partitions: int

    def partition(self, key: bytes) -> int:
        """Return the partition of `key`: the hash without its sign bit, modulo the partitions, as in Java's client."""
        return murmur2_partition(key, self.partitions)

    def partitions_of(self, keys: Sequence[bytes]) -> list[int]:
        """Return the partition of each key."""
        return list(map(murmur2_partition, keys, repeat(self.partitions)))

    def __str__(self) -> str:
        return f"hash (murmur2) over {self.partitions}"


@dataclass(frozen=True, slots=True)
class RangePartitioner:
    """Partitions keys by their order as bytes (for text: UTF-8, so by code point).

    Args:
        splits: the first key of each partition but the first, in order.

    >>> partitioner = RangePartitioner((b"g", b"p"))
    >>> partitioner.partitions, partitioner.partitions_of([b"apple", b"g", b"orange", b"zoo"])
    (3, [0, 1, 1, 2])

    Raises:
        Usage: the split points are not in order, or not bytes.
    """

    splits: tuple[bytes, ...]

    def __post_init__(self) -> None:
        splits = cast("object", self.splits)
        if not isinstance(splits, tuple) or not all(
            isinstance(point, bytes) for point in cast("tuple[object, ...]", splits)
        ):
            # Others would be written for all programs of the cluster, which could not read them.
            raise Usage(
                f"RangePartitioner({splits!r}): expected a tuple of bytes",
                hint='for text RangePartitioner.parsed("g,p"), which is RangePartitioner((b"g", b"p"))',
            )
        if any(a >= b for a, b in zip(self.splits, self.splits[1:], strict=False)):
            raise Usage(f"{self}: split points must be in order, each once", hint="for example range:g,p")

    @classmethod
    def parsed(cls, text: str) -> RangePartitioner:
        """Parse `g,p` or `range:g,p`.

        >>> RangePartitioner.parsed("range:g,p") == RangePartitioner((b"g", b"p"))
        True
        """
        points = [point.strip() for point in text.removeprefix("range:").split(",")]
        if not all(points):
            raise Usage(
                f"not a range partitioner: {text!r}",
                hint="list the first key of each partition except the first: range:g,p",
            )
        return cls(tuple(point.encode() for point in points))

    @classmethod
    def learned(cls, keys: Iterable[bytes], partitions: int) -> RangePartitioner:
        """Return the split points that divide a sample of keys as evenly as possible.

        All records of a key are in one partition, so a key with more than an even share cannot be divided.

        >>> RangePartitioner.learned([b"a", b"b", b"b", b"c", b"d", b"e"], 3)
        RangePartitioner(splits=(b'b', b'd'))

        Raises:
            Usage: the sample has fewer different keys than partitions.
        """
        ordered = sorted(keys)
        firsts = [i for i, key in enumerate(ordered) if i == 0 or ordered[i - 1] != key]
        if len(firsts) < partitions:
            raise Usage(
                f"{len(firsts)} different keys cannot be split into {partitions} ranges",
                hint="use a larger sample, or fewer partitions",
            )
        splits: list[int] = []
        for number in range(1, partitions):
            after = splits[-1] if splits else 0
            # The boundary between two keys that is nearest to an even share, with a key left for each later range.
            free = [i for i in firsts if i > after][: len(firsts) - firsts.index(after) - (partitions - number)]
            splits.append(min(free, key=lambda i: abs(i - number * len(ordered) / partitions)))
        return cls(tuple(ordered[i] for i in splits))

    @property
    def partitions(self) -> int:
        """The number of partitions."""
        return len(self.splits) + 1

    def partition(self, key: bytes) -> int:
        """Return the partition of `key`."""
        return bisect_right(self.splits, key)

    def partitions_of(self, keys: Sequence[bytes]) -> list[int]:
        """Return the partition of each key."""
        return list(map(bisect_right, repeat(self.splits), keys))

    def __str__(self) -> str:
        return "range:" + ",".join(point.decode(errors="backslashreplace") for point in self.splits)


Partitioner = HashPartitioner | RangePartitioner


def key_bytes(column: pyarrow.Array) -> pyarrow.Array:
    """Return a column of keys as bytes: text as UTF-8, integers in decimal, bytes unchanged; null means no key."""
    import pyarrow

    keys: Any = column
    if pyarrow.types.is_integer(keys.type):
        keys = keys.cast(pyarrow.string())
    return keys.cast(pyarrow.binary())


def partitions_of_column(partitioner: Partitioner, column: pyarrow.Array) -> numpy.ndarray:
    """Return the partition of each key of a column (see `key_bytes`); -1 for a row without a key."""
    import numpy

    coded = cast(Any, column).dictionary_encode()
    places = numpy.array([*partitioner.partitions_of(key_bytes(coded.dictionary).to_pylist()), -1])
    codes = coded.indices
    return places[as_numpy(codes.fill_null(len(places) - 1) if codes.null_count else codes)]
