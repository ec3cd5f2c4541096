"""Random identifiers: the one file that draws them (`tests/test_tidy.py`), so that a test can seed them all.

Names of temporary folders (`tempfile`) are not among them: they reach neither Kafka nor any other process. Nor are the
names of reply topics, which Faust's settings draw; a test that minds gives `reply_to=`.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

__all__ = ["kafka_uuid", "random_below", "random_hex", "random_uuid", "seeded"]

_source: random.Random = random.SystemRandom()


def random_below(limit: int) -> int:
    """Return a random number, at least 0 and below a limit."""
    return _source.randrange(limit)


def random_hex(digits: int) -> str:
    """Return so many random hexadecimal digits.

    >>> with seeded(7):
    ...     random_hex(12)
    'f2a752e6b438'
    """
    return f"{_source.getrandbits(4 * digits):0{digits}x}"


def random_uuid() -> UUID:
    """Return a random UUID (version 4)."""
    return UUID(int=_source.getrandbits(128), version=4)


def kafka_uuid() -> str:
    """Return a random id as Kafka writes them: base64 without padding, never with a leading dash."""
    while (text := base64.urlsafe_b64encode(random_uuid().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


@contextmanager
def seeded(seed: int | random.Random) -> Generator[None]:
    """Derive all identifiers that the process draws inside the block from `seed`.

    Args:
        seed: a number, or a generator that continues from its state after the last block.
    """
    global _source
    before, _source = _source, random.Random(seed) if isinstance(seed, int) else seed  # noqa: S311 (of a test)
    try:
        yield
    finally:
        _source = before
