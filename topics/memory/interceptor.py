"""The one place through which all operations of the clients pass, so that a test can let any of them fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from .client import Client

__all__ = ["Interceptor", "PassThrough"]

T = TypeVar("T")


class Interceptor(Protocol):
    """Stands between the clients and Kafka in memory.

    It may raise before `act` (the request is lost) or after it (its answer is), or return another answer. Operations
    are called as in confluent_kafka: `produce`, `commit_transaction`, `consume`, `list_topics`, ….
    """

    def call(self, client: Client, operation: str, act: Callable[[], T]) -> T:
        """Carry out an operation of a client and return its result."""
        ...


class PassThrough:
    """Lets every operation happen."""

    def call(self, client: Client, operation: str, act: Callable[[], T]) -> T:
        """Carry out an operation of a client and return its result."""
        return act()
