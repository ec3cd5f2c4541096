"""Partitions of topics: one name for (topic, partition), here and in messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["TopicPartition", "listed"]


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


def listed(positions: Iterable[TopicPartition]) -> str:
    """Partitions as people read them."""
    return ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(positions)) or "no partitions"
