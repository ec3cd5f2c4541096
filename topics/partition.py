"""How keys map to partitions: the same place for the same key, whoever sends it.

Kafka's Java client hashes keys with its own murmur2; librdkafka does so only when asked (`partitioner=murmur2_random`),
and its default is another hash. All producers of this project use murmur2, so a record lands where the Java client
would put it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HashPlan", "murmur2"]

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


@dataclass(frozen=True, slots=True)
class HashPlan:
    """Keys are spread by hash.

    >>> HashPlan(4).partition(b"foobar")
    2
    """

    partitions: int

    def partition(self, key: bytes) -> int:
        """Number of the partition that holds `key`; sign bit off, then modulo, as Java's client does it."""
        return (murmur2(key) & 0x7FFFFFFF) % self.partitions
