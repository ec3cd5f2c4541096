"""Which Kafka cluster a command works on: one that is named, or an embedded broker.

In order of precedence: `--bootstrap-server`; `KAFKA_BOOTSTRAP_SERVERS`; the app's own `broker=…`; the embedded broker,
which keeps its data under `.anabranch/` in the working directory (`ANABRANCH_HOME`). If another command already runs a
broker there, it is used and no second one is started; while another command starts or stops one, this one waits.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..topics import clock
from ..topics.admin import Admin
from ..topics.cluster import Cluster
from ..topics.errors import Usage

if TYPE_CHECKING:
    from ..topics.devbroker.broker import BrokerStats, EmbeddedBroker

__all__ = ["ClusterChoice", "ClusterDeclaration", "home", "known_servers", "provide_cluster"]


_REACH_S = 5.0
# Starting a broker takes a minute at most, stopping one a quarter of a minute.
_WAIT_S = 90.0


def home() -> Path:
    """Return the folder for data on this machine."""
    return Path(os.environ.get("ANABRANCH_HOME", ".anabranch")).absolute()


class ClusterDeclaration(Protocol):
    """The cluster that a program names, and librdkafka's options for it: an app, or what is known of one."""

    @property
    def declared_broker(self) -> str | None: ...

    @property
    def client_options(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class ClusterChoice:
    """The cluster to work on.

    Attributes:
        broker: figures of the embedded broker's start; None for any other broker.
    """

    cluster: Cluster
    broker: BrokerStats | None = None


def known_servers(bootstrap_server: str | None, *, declared: str | None = None, keep: bool = True) -> str | None:
    """Return the bootstrap servers of a cluster that runs already; None if an embedded broker has to be started.

    The arguments are those of `provide_cluster`.

    Raises:
        Usage: a cluster is named with an empty name, probably from a variable that is not set.
    """
    for name, given in (
        ("--bootstrap-server", bootstrap_server),
        ("KAFKA_BOOTSTRAP_SERVERS", os.environ.get("KAFKA_BOOTSTRAP_SERVERS")),
    ):
        if given is not None:
            if not given.strip(" ,"):
                raise Usage(f"{name} is empty", hint="HOST:PORT names a cluster; without it an embedded broker is used")
            return given
    servers = declared
    if servers or not keep:
        return servers
    from ..topics.devbroker.broker import running_at  # not needed where a cluster is named

    return running_at(home() / "broker")


@contextlib.contextmanager
def provide_cluster(
    bootstrap_server: str | None,
    options: Mapping[str, str] | None = None,
    *,
    declared: str | None = None,
    defaults: Mapping[str, str] | None = None,
    keep: bool = True,
    on_progress: Callable[[str], None] | None = None,
) -> Generator[ClusterChoice]:
    """Provide a cluster inside a `with` block.

    Args:
        declared: the bootstrap servers that an app names.
        defaults: the librdkafka options that an app has for them.
        keep: use the embedded broker with kept data; False starts a new one, whose data is deleted at the end.

    Raises:
        Stop: no broker answers, or the embedded one cannot be started.
        Usage: see `known_servers`.
    """
    deadline_s = clock.now_s() + _WAIT_S
    while not (servers := known_servers(bootstrap_server, declared=declared, keep=keep)):
        broker = _start_embedded(home() / "broker" if keep else None, on_progress, deadline_s)
        if broker is not None:
            try:
                yield ClusterChoice(Cluster.named(broker.bootstrap_servers, options), broker.stats)
            finally:
                broker.stop()
            return
    cluster = Cluster.named(servers, options, defaults=defaults)
    Admin(cluster).partitions([], timeout_s=_REACH_S)  # fails early, and with a clear message, if no broker answers
    yield ClusterChoice(cluster)


def _start_embedded(
    data: Path | None, on_progress: Callable[[str], None] | None, deadline_s: float
) -> EmbeddedBroker | None:
    """Start an embedded broker; returns None while another command starts or stops one."""
    from ..topics.devbroker.broker import EmbeddedBroker, Occupied

    broker = EmbeddedBroker(data, on_progress=on_progress)
    try:
        broker.start()
    except Occupied:
        if clock.now_s() > deadline_s:
            raise
        return None
    return broker
