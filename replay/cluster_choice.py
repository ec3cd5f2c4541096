"""Where a command works: on the cluster it is told, or on a broker of our own.

The ladder: `--bootstrap-server`, else `KAFKA_BOOTSTRAP_SERVERS`, else the app's own `broker=…`, else the embedded
broker, whose data is kept under `.anabranch/` of the working directory (`ANABRANCH_HOME`). A broker that another
command runs there is joined, not started twice; while one starts or stops it, the next waits.
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

__all__ = ["ClusterChoice", "Declares", "ground", "home", "servers_at_hand"]


_REACH_S = 5.0
_TURN_S = 90.0  # a start takes a minute at most, an end a quarter of one


def home() -> Path:
    """Where data of this project lives on this machine."""
    return Path(os.environ.get("ANABRANCH_HOME", ".anabranch")).absolute()


class Declares(Protocol):
    """An app, or what is known of one: the cluster that the program names, and librdkafka's options for it."""

    @property
    def declared_broker(self) -> str | None: ...

    @property
    def client_options(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class ClusterChoice:
    """A cluster to work on.

    Attributes:
        broker: what our own broker said at its start; None where somebody else runs it.
    """

    cluster: Cluster
    broker: BrokerStats | None = None


def servers_at_hand(bootstrap_server: str | None, *, declared: str | None = None, keep: bool = True) -> str | None:
    """The cluster that needs not be started; see `ground`.

    Raises:
        Usage: one is named, and the name is empty: of a variable that was not set, most likely.
    """
    for name, given in (
        ("--bootstrap-server", bootstrap_server),
        ("KAFKA_BOOTSTRAP_SERVERS", os.environ.get("KAFKA_BOOTSTRAP_SERVERS")),
    ):
        if given is not None:
            if not given.strip(" ,"):
                raise Usage(
                    f"{name} is empty", hint="HOST:PORT names a cluster; without it a broker of our own is started"
                )
            return given
    servers = declared
    if servers or not keep:
        return servers
    from ..topics.devbroker.broker import running_at  # who has a cluster needs none of it

    return running_at(home() / "broker")


@contextlib.contextmanager
def ground(
    bootstrap_server: str | None,
    options: Mapping[str, str] | None = None,
    *,
    declared: str | None = None,
    defaults: Mapping[str, str] | None = None,
    keep: bool = True,
    on_progress: Callable[[str], None] | None = None,
) -> Generator[ClusterChoice]:
    """A cluster for the length of a `with` block.

    Args:
        declared: the broker an app names itself; defaults: the options it has for it.
        keep: keep the data of a broker of our own; otherwise it is a new one, and thrown away.
    """
    deadline_s = clock.now_s() + _TURN_S
    while not (servers := servers_at_hand(bootstrap_server, declared=declared, keep=keep)):
        broker = _started(home() / "broker" if keep else None, on_progress, deadline_s)
        if broker is not None:
            try:
                yield ClusterChoice(Cluster.named(broker.bootstrap_servers, options), broker.stats)
            finally:
                broker.stop()
            return
    cluster = Cluster.named(servers, options, defaults=defaults)
    Admin(cluster).partitions([], timeout_s=_REACH_S)  # says at once, and clearly, that nobody is there
    yield ClusterChoice(cluster)


def _started(data: Path | None, on_progress: Callable[[str], None] | None, deadline_s: float) -> EmbeddedBroker | None:
    """A broker of our own; None where another command starts or stops one."""
    from ..topics.devbroker.broker import EmbeddedBroker, Occupied

    broker = EmbeddedBroker(data, on_progress=on_progress)
    try:
        broker.start()
    except Occupied:
        if clock.now_s() > deadline_s:
            raise
        return None
    return broker
