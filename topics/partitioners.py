"""How keys map to partitions: the same place for the same key, whoever sends it.

By hash, unless a topic says otherwise. Kafka's Java client hashes keys with its own murmur2; librdkafka does so only
when asked (`partitioner=murmur2_random`), and its default is another hash. All producers of this project use murmur2,
so a record lands where the Java client would put it.

By range, where a topic declares it: partition after partition, keys are then in order. Which topics do is kept in the
cluster, see `partitioners.py`.
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

__all__ = ["HashPartitioner", "Partitioner", "RangePartitioner", "key_bytes", "murmur2", "partitions_of_column"]

_M = 0x5BD1E995
_SEED = 0x9747B28C
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 of `data`, as an unsigned number (org.apache.kafka.common.utils.Utils.murmur2)."""
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
        from confluent_kafka import murmur2 as place
    except ImportError:
        return _python_place  # confluent-kafka before 2.13
    return place


_place = _fastest_place()


@dataclass(frozen=True, slots=True)
class HashPartitioner:
    """Keys are spread by hash.

    >>> HashPartitioner(4).partition(b"foobar")
    2
    """

    partitions: int

    def partition(self, key: bytes) -> int:
        """Number of the partition that holds `key`; sign bit off, then modulo, as Java's client does it."""
        return _place(key, self.partitions)

    def partitions_of(self, keys: Sequence[bytes]) -> list[int]:
        """`partition` of many keys."""
        return list(map(_place, keys, repeat(self.partitions)))

    def __str__(self) -> str:
        return f"hash (murmur2) over {self.partitions}"


@dataclass(frozen=True, slots=True)
class RangePartitioner:
    """Keys are spread by their order as bytes (for text: UTF-8, so by code point).

    Args:
        splits: the first key of each partition but the first, in order.

    >>> partitioner = RangePartitioner((b"g", b"p"))
    >>> partitioner.partitions, partitioner.partitions_of([b"apple", b"g", b"orange", b"zoo"])
    (3, [0, 1, 1, 2])

    Raises:
        Usage: the split points are not in order.
    """

    splits: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if any(a >= b for a, b in zip(self.splits, self.splits[1:], strict=False)):
            raise Usage(f"{self}: split points must be in order, each once", hint="such as range:g,p")

    @classmethod
    def parsed(cls, text: str) -> RangePartitioner:
        """From `g,p` or `range:g,p`.

        >>> RangePartitioner.parsed("range:g,p") == RangePartitioner((b"g", b"p"))
        True
        """
        points = [point.strip() for point in text.removeprefix("range:").split(",")]
        if not all(points):
            raise Usage(
                f"no range partitioner: {text!r}", hint="the first key of each partition but the first: range:g,p"
            )
        return cls(tuple(point.encode() for point in points))

    @classmethod
    def learned(cls, keys: Iterable[bytes], partitions: int) -> RangePartitioner:
        """Split points that give each partition as much of a sample as can be.

        A key is in one partition with all of its records, so a key with more than its share cannot be spread.

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
                hint="a larger sample, or fewer partitions",
            )
        splits: list[int] = []
        for number in range(1, partitions):
            after = splits[-1] if splits else 0
            # The border between two keys that is nearest to an even share, with a key left for each range to come.
            free = [i for i in firsts if i > after][: len(firsts) - firsts.index(after) - (partitions - number)]
            splits.append(min(free, key=lambda i: abs(i - number * len(ordered) / partitions)))
        return cls(tuple(ordered[i] for i in splits))

    @property
    def partitions(self) -> int:
        """How many there are."""
        return len(self.splits) + 1

    def partition(self, key: bytes) -> int:
        """Number of the partition that holds `key`."""
        return bisect_right(self.splits, key)

    def partitions_of(self, keys: Sequence[bytes]) -> list[int]:
        """`partition` of many keys."""
        return list(map(bisect_right, repeat(self.splits), keys))

    def __str__(self) -> str:
        return "range:" + ",".join(point.decode(errors="backslashreplace") for point in self.splits)


Partitioner = HashPartitioner | RangePartitioner


def key_bytes(column: pyarrow.Array) -> pyarrow.Array:
    """A column of keys as bytes: text as UTF-8, whole numbers in decimal, bytes as they are; null is no key."""
    import pyarrow

    keys: Any = column
    if pyarrow.types.is_integer(keys.type):
        keys = keys.cast(pyarrow.string())
    return keys.cast(pyarrow.binary())


def partitions_of_column(partitioner: Partitioner, column: pyarrow.Array) -> numpy.ndarray:
    """`partitioner.partition` of each key of a column (see `key_bytes`), -1 where there is none."""
    import numpy

    coded = cast(Any, column).dictionary_encode()
    places = numpy.array([*partitioner.partitions_of(key_bytes(coded.dictionary).to_pylist()), -1])
    codes = coded.indices
    return places[as_numpy(codes.fill_null(len(places) - 1) if codes.null_count else codes)]
