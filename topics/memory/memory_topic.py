"""A topic: its id, its configuration and its partitions."""

from __future__ import annotations

import re

from confluent_kafka import KafkaError, Uuid

from ..identifiers import random_uuid
from .failure import Refused
from .partition_log import PartitionLog
from .topic_config import TopicConfig

__all__ = ["Topic", "check_name"]

_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_HALF = 1 << 64


def check_name(name: str) -> None:
    """Refuse names that Kafka does not allow.

    Raises:
        Refused: it is one of those.
    """
    if _NAME.fullmatch(name) is None or name in (".", ".."):
        raise Refused(KafkaError.TOPIC_EXCEPTION, f"Topic name is invalid: '{name}'")


class Topic:
    """A topic. One that is deleted and created again is another object with another id.

    Raises:
        Refused: the number of partitions or the configuration is invalid.
    """

    def __init__(self, name: str, partitions: int, config: dict[str, str]) -> None:
        if partitions <= 0:
            raise Refused(KafkaError.INVALID_PARTITIONS, "Number of partitions was set to an invalid value.")
        self.name = name
        self.config = TopicConfig(config)
        number = random_uuid().int
        self.id = Uuid(_signed(number // _HALF), _signed(number % _HALF))
        self.logs = [PartitionLog(name, partition) for partition in range(partitions)]

    def add_partitions(self, total: int) -> None:
        """Let the topic have more partitions.

        Raises:
            Refused: it has as many already, or more.
        """
        if total <= len(self.logs):
            raise Refused(
                KafkaError.INVALID_PARTITIONS,
                f"The topic {self.name} currently has {len(self.logs)} partition(s); {total} would not be an increase.",
            )
        self.logs += [PartitionLog(self.name, partition) for partition in range(len(self.logs), total)]


def _signed(half: int) -> int:
    return half - _HALF if half >= _HALF // 2 else half
