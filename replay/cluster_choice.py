"""Which Kafka cluster a command works on: one that is named, or an embedded broker.

In order of precedence: `--bootstrap-server`; `KAFKA_BOOTSTRAP_SERVERS`; a file (`project_config.py`); the app's own
`broker=…`; the embedded broker, which keeps its data under `.anabranch/` in the working directory (`ANABRANCH_HOME`).
That broker runs in the background and serves all commands of the folder; the first one starts it, and it ends when it
is not used any more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..topics.admin import Admin
from ..topics.client_options import check_options
from ..topics.cluster import Cluster
from ..topics.errors import Stop, Usage
from ..topics.spelling import nearest
from .project_config import project_config

if TYPE_CHECKING:
    from ..topics.devbroker.broker import BrokerStats
    from ..topics.devbroker.running_broker import RunningBroker

__all__ = [
    "ClusterChoice",
    "ClusterDeclaration",
    "home",
    "known_servers",
    "named_cluster",
    "named_servers",
    "provide_cluster",
]


_REACH_S = 5.0
_SERVERS = "KAFKA_BOOTSTRAP_SERVERS"


def home() -> Path:
    """Return the folder for data on this machine."""
    return Path(os.environ.get("ANABRANCH_HOME") or ".anabranch").absolute()


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
        broker: figures of the embedded broker's start, if this command has started it; else None.
        embedded: whether it is an embedded broker.
    """

    cluster: Cluster
    broker: BrokerStats | None = None
    embedded: bool = False


def known_servers(bootstrap_server: str | None, *, declared: str | None = None, keep: bool = True) -> str | None:
    """Return the bootstrap servers of a cluster that runs already; None if an embedded broker has to be started.

    The arguments are those of `provide_cluster`.

    Raises:
        Usage: a cluster is named with an empty name, probably from a variable that is not set, or by a variable whose
            name is misspelled.
    """
    servers = named_servers(bootstrap_server, declared)
    if servers or not keep:
        return servers
    from ..topics.devbroker.running_broker import running_at  # not needed where a cluster is named

    running = running_at(home() / "broker")
    return running.servers if running is not None else None


def named_servers(bootstrap_server: str | None, declared: str | None = None) -> str | None:
    """Return the bootstrap servers that something names; None if the embedded broker is to be used.

    Raises:
        Usage: see `known_servers`.
    """
    for name, given in (
        ("--bootstrap-server", bootstrap_server),
        (_SERVERS, os.environ.get(_SERVERS)),
    ):
        if given is not None:
            if not given.strip(" ,"):
                raise Usage(f"{name} is empty", hint="HOST:PORT names a cluster; without it an embedded broker is used")
            return given
    servers = project_config().bootstrap_servers or declared
    if servers is None:
        _refuse_misspelled()
    return servers


def _refuse_misspelled() -> None:
    """Refuse a misspelled `KAFKA_BOOTSTRAP_SERVERS`: the embedded broker would be used in its place, which is empty.

    Raises:
        Usage: there is one.
    """
    for name, value in os.environ.items():
        # One of more words is another variable, such as KAFKA_BOOTSTRAP_SERVERS_TEST.
        words = name.count("_") + 1
        if value and name.startswith("KAFKA_") and words <= 3 and nearest(name, [_SERVERS], cutoff=0.9):
            raise Usage(
                f"{name} names no cluster: the variable is called {_SERVERS}",
                hint=f"rename it, or unset {name} for the embedded broker",
            )


def named_cluster(
    servers: str, options: Mapping[str, str] | None, defaults: Mapping[str, str] | None = None
) -> Cluster:
    """Return a cluster that is named: not the embedded broker.

    Args:
        options: of the command line; they win over the environment, and that over the file.
        defaults: the options of the program.

    Raises:
        Usage: the file sets an option that anabranch sets itself.
    """
    config = project_config()
    check_options(config.options)
    return Cluster.named(servers, options, defaults={**(defaults or {}), **config.options})


@contextlib.contextmanager
def provide_cluster(
    bootstrap_server: str | None,
    options: Mapping[str, str] | None = None,
    *,
    declared: str | None = None,
    defaults: Mapping[str, str] | None = None,
    keep: bool = True,
    on_progress: Callable[[str], None] | None = None,
    on_lost: Callable[[str], None] | None = None,
) -> Generator[ClusterChoice]:
    """Provide a cluster inside a `with` block.

    Args:
        declared: the bootstrap servers that an app names.
        defaults: the librdkafka options that an app has for them.
        keep: use the embedded broker with kept data; False starts a new one, whose data is deleted at the end.
        on_lost: called from a thread, with a sentence, if the embedded broker with kept data ends inside the block.

    Raises:
        Stop: no broker answers, or the embedded one cannot be started, or it has ended inside the block.
        Usage: see `known_servers`.
    """
    servers = named_servers(bootstrap_server, declared)
    if servers is not None:
        cluster = named_cluster(servers, options, defaults)
        Admin(cluster).partitions([], timeout_s=_REACH_S)  # fails early, with a clear message, if no broker answers
        yield ClusterChoice(cluster)
    elif keep:
        with _background(options, on_progress, on_lost) as choice:
            yield choice
    else:
        from ..topics.devbroker.broker import EmbeddedBroker

        with EmbeddedBroker(on_progress=on_progress) as broker:
            yield ClusterChoice(Cluster.named(broker.bootstrap_servers, options), broker.stats, embedded=True)


@contextlib.contextmanager
def _background(
    options: Mapping[str, str] | None,
    on_progress: Callable[[str], None] | None,
    on_lost: Callable[[str], None] | None,
) -> Generator[ClusterChoice]:
    from ..topics.devbroker import background

    def lost(running: RunningBroker) -> None:
        if on_lost is None:
            return
        if running.is_folder_gone:
            on_lost(f"{_end_of(running)}; stop this command and start it again: it begins with an empty Kafka")
        else:
            on_lost(f"{_end_of(running)}; `anabranch broker start` starts it again, with its data")

    data = home() / "broker"
    with background.provide(data, on_progress=on_progress, on_lost=lost) as (running, stats):
        try:
            yield ClusterChoice(Cluster.named(running.servers, options), stats, embedded=True)
        except Stop as exc:
            # Each part of the program that uses Kafka reports its own consequence of the loss.
            if isinstance(exc, Usage) or running.lives:
                raise
            then = "begins with an empty one" if running.is_folder_gone else "starts the broker, and resumes"
            raise Stop(_end_of(running), hint=f"run the same command again: it {then}") from exc


def _end_of(running: RunningBroker) -> str:
    if running.is_folder_gone:
        return f"the embedded Kafka at {running.servers} has ended, because its folder {running.data} was deleted"
    return f"the embedded Kafka at {running.servers} has ended (`anabranch broker logs`)"
