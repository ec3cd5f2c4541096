"""Partitions of topics, as keys and in messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["TopicPartition", "listed"]


class TopicPartition(NamedTuple):
    """A partition of a topic: the topic's name and the number."""

    topic: str
    partition: int


def listed(positions: Iterable[TopicPartition]) -> str:
    """Return partitions as text, such as `orders[0], orders[1]`."""
    return ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(positions)) or "no partitions"
