"""Errors as librdkafka reports them."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException, TopicPartition

__all__ = ["FailedPartition", "Refused", "failure", "partition_with"]


def failure(
    code: int, text: str | None = None, *, fatal: bool = False, retriable: bool = False, abort: bool = False
) -> KafkaException:
    """Return the exception that librdkafka's binding raises.

    Args:
        text: what the error says; None for the standard text of its code.
        abort: whether the current transaction has to be aborted.
    """
    return KafkaException(KafkaError(code, text or KafkaError(code).str(), fatal, retriable, abort))


class Refused(Exception):
    """The broker's answer to a request is an error.

    Attributes:
        code: Kafka's error code.
        text: what the answer says in addition; None for nothing.
    """

    def __init__(self, code: int, text: str | None = None) -> None:
        super().__init__(code, text)
        self.code, self.text = code, text

    @property
    def error(self) -> KafkaError:
        """The error as clients report it."""
        return KafkaError(self.code, self.text) if self.text else KafkaError(self.code)


class FailedPartition(TopicPartition):
    """A partition in an answer, with an error: that of confluent_kafka's own class cannot be set."""

    error: KafkaError | None = None


def partition_with(code: int, topic: str, partition: int, offset: int = -1001) -> FailedPartition:
    """Return a partition of an answer for which the request has failed."""
    failed = FailedPartition(topic, partition, offset)
    failed.error = KafkaError(code)
    return failed
