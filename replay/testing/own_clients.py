"""Notices Kafka clients that an app makes itself inside of a world: they reach the network, not the world's Kafka."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["own_clients_noticed"]

_TASKS = Path("/proc/self/task")


@contextmanager
def own_clients_noticed() -> Generator[None]:
    """Warn if there are more librdkafka clients in this process after the block than before; on Linux only.

    Clients are counted by their threads, since nothing of this project makes them, and no class is patched.
    """
    before = _count()
    yield
    if _count() > before:
        warnings.warn(
            "the app has made a Kafka client of its own: it reaches the network, and not the Kafka of this world. Send "
            "records with `topic.send(…)`, or patch the client in `world.module`",
            stacklevel=5,
        )


def _count() -> int:
    if sys.platform != "linux":
        return 0
    count = 0
    for task in _TASKS.iterdir():
        with suppress(OSError):  # it has ended
            count += (task / "comm").read_bytes().startswith(b"rdk:main")
    return count
