"""The base of the three clients: their configuration, and how they wait and fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from confluent_kafka import KafkaError, KafkaException

from .. import clock
from .client_config import ClientConfig
from .failure import Refused, failure

if TYPE_CHECKING:
    from confluent_kafka.admin import ClusterMetadata

    from .memory_kafka import MemoryKafka

__all__ = ["Client"]

T = TypeVar("T")

_FOREVER_S = 1e9


class _ErrorCallback(Protocol):
    def __call__(self, error: KafkaError, /) -> object: ...


class Client:
    """Base of the clients.

    Args:
        config: librdkafka's configuration, under its own dotted names.
        owner: whatever the maker of the client wants to know it by, such as the worker that uses it.

    Attributes:
        client_id, group, transactional_id: from the configuration; None where it names none.
        silent_since_s: since when the client sends no heartbeats, because its process is dead or stands still; None
            while it lives. Its next call ends the silence.
        polled_s: when the consumer was last polled.
        poll_interval_s: after this time without a poll a consumer sends no heartbeats.
    """

    def __init__(self, kafka: MemoryKafka, config: Mapping[str, object], owner: object = None) -> None:
        self._kafka = kafka
        self._config = ClientConfig(config)
        self.owner = owner
        self.client_id = self._config.text("client.id") or "rdkafka"
        self.group = self._config.text("group.id")
        self.transactional_id = self._config.text("transactional.id")
        self.silent_since_s: float | None = None
        self.polled_s = clock.now_s()
        self.poll_interval_s = float("inf")
        self._errors: list[KafkaError] = []
        self._error_cb = cast("_ErrorCallback | None", self._config.get("error_cb"))

    def fall_silent(self) -> None:
        """Send no heartbeats from now on, as a process that was killed or stands still."""
        if self.silent_since_s is None:
            self.silent_since_s = clock.now_s()

    def ends_s(self, session_s: float, *, leaves: bool) -> float:
        """Return when its membership of a group ends if nothing is heard from it until then; infinity while it lives.

        Args:
            leaves: whether it leaves the group when it is not polled in time, instead of sending no heartbeats.
        """
        late_s = self.polled_s + self.poll_interval_s + (0.0 if leaves else session_s)
        return late_s if self.silent_since_s is None else min(late_s, self.silent_since_s + session_s)

    def report(self, error: KafkaError) -> None:
        """Let the next poll call the client's `error_cb`."""
        self._errors.append(error)

    def _serve_errors(self) -> int:
        errors, self._errors = self._errors, []
        if self._error_cb is not None:
            for error in errors:
                self._error_cb(error)
        return len(errors)

    def _call(self, operation: str, act: Callable[[], T]) -> T:
        """Carry out an operation; an error that the broker answers is raised as librdkafka does."""
        try:
            return self._kafka.interceptor.call(self, operation, act)
        except Refused as exc:
            raise KafkaException(exc.error) from None

    def _until(self, found: Callable[[], T | None], timeout: float) -> T:
        """Return what `found` returns once it is not None.

        Raises:
            KafkaException: `_TIMED_OUT`.
        """
        deadline_s = clock.now_s() + (timeout if timeout >= 0 else _FOREVER_S)
        while True:
            seen = self._kafka.version
            answer = found()
            if answer is not None:
                return answer
            left_s = deadline_s - clock.now_s()
            if left_s <= 0:
                raise failure(KafkaError._TIMED_OUT)  # pyright: ignore[reportPrivateUsage]
            self._kafka.wait(seen, left_s)

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> ClusterMetadata:
        """Return the metadata of the cluster: of all topics, or of one."""
        return self._call("list_topics", lambda: self._kafka.metadata(topic))

    def cluster_id(self, timeout: float = -1) -> str:
        """Return the cluster's id."""
        return self._call("cluster_id", lambda: self._kafka.cluster_id)

    def set_sasl_credentials(self, username: str, password: str) -> None:
        """Do nothing: every client is let in."""
