"""A program beside the app whose transaction is open: nobody may read its records yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from anabranch import World
from anabranch.topics.producer import TransactionalProducer

__all__ = ["open_transaction"]


@contextmanager
def open_transaction(
    world: World, topic: str, values: Iterable[bytes], *, partition: int, key: bytes = b""
) -> Iterator[None]:
    """Send records to a partition in a transaction that is committed at the end of the block."""
    with world.environment.entered():
        upstream = TransactionalProducer(world.environment.kafka.cluster(), "upstream", transaction_timeout_ms=600_000)
        upstream.open()
        upstream.begin()
        for value in values:
            upstream.produce(topic, value, key, partition)
        upstream.flush()
    yield
    with world.environment.entered():
        upstream.commit()
