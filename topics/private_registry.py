"""The private fields of all apps, kept in a compacted topic of the cluster, for commands that do not load the app.

    topic   anabranch-private, one partition, cleanup.policy=compact
    key     id of the app
    value   JSON: topic -> names of its private fields; see `PrivateNames`

A worker of an app that declares private fields writes its entry before it reads a record. Without the right to create
or write the topic it only logs that: commands then need `-A APP` to know the fields.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from .admin import Admin, TopicSpec
from .cluster import Cluster
from .errors import AnabranchError, Stop
from .partition_reader import read_to_end
from .private_fields import NOTHING, PrivateFields, PrivateNames
from .private_texts import hide_texts

__all__ = ["PRIVATE_TOPIC", "fields_of_topics", "publish"]

PRIVATE_TOPIC = "anabranch-private"
_FLUSH_S = 30.0

logger = logging.getLogger(__name__)

_decoder = msgspec.json.Decoder(dict[str, frozenset[str]])


def fields_of_topics(
    cluster: Cluster, topics: Iterable[str], *, admin: Admin | None = None
) -> dict[str, PrivateFields]:
    """Return topic -> its private fields by the entries of all apps (blocking); hides texts if there are any.

    Raises:
        Stop: the entries cannot be read.
    """
    found = dict.fromkeys(topics, NOTHING)
    for app in read(cluster, admin or Admin(cluster)):
        for topic in filter(app.owns, found):
            found[topic] = found[topic].joined(app.of(topic))
    if any(fields.names for fields in found.values()):
        hide_texts()
    return found


def publish(cluster: Cluster, admin: Admin, names: PrivateNames, *, may_create: bool) -> None:
    """Write the entry of an app that declares private fields, if it is not there (blocking).

    Args:
        may_create: whether to create the topic if it does not exist.
    """
    if not names.topics:
        return
    try:
        found = {app.app: app.topics for app in read(cluster, admin)}
        if found.get(names.app) == names.topics:
            return
        if PRIVATE_TOPIC not in admin.partitions([PRIVATE_TOPIC]):
            if not may_create:
                raise Stop(f"there is no topic {PRIVATE_TOPIC}")
            admin.create([TopicSpec(PRIVATE_TOPIC, 1, -1, {"cleanup.policy": "compact"})])
        _write(cluster, names)
    except AnabranchError as exc:
        logger.warning(
            "commands do not know the private fields of %s without -A: %s", names.app, exc.args[0] if exc.args else exc
        )


def _write(cluster: Cluster, names: PrivateNames) -> None:
    failed: list[object] = []
    producer = cluster.producer(linger_ms=0)
    producer.produce(
        PRIVATE_TOPIC,
        msgspec.json.encode(names.topics, order="deterministic"),
        names.app,
        on_delivery=lambda error, _: failed.append(error) if error is not None else None,
    )
    if producer.flush(_FLUSH_S):
        raise Stop(f"{PRIVATE_TOPIC} could not be written within {_FLUSH_S:.0f} s")
    if failed:
        raise Stop(f"{PRIVATE_TOPIC} could not be written: {failed[0]}")


def read(cluster: Cluster, admin: Admin) -> list[PrivateNames]:
    """Return the private fields of all apps that have an entry (blocking).

    Raises:
        Stop: an entry cannot be read.
    """
    if PRIVATE_TOPIC not in admin.partitions([PRIVATE_TOPIC]):
        return []
    begins, ends = admin.spans([(PRIVATE_TOPIC, 0)])
    apps: dict[str, PrivateNames] = {}
    for run in read_to_end(cluster, begins, ends):
        for message in run.messages:
            app = (message.key() or b"").decode(errors="replace")
            apps.pop(app, None)
            if message.value() is None:
                continue
            try:
                apps[app] = PrivateNames(app, _decoder.decode(message.value() or b""))
            except (msgspec.MsgspecError, RecursionError) as exc:
                raise Stop(
                    f"{PRIVATE_TOPIC}[0]@{message.offset()}: the private fields of {app} cannot be read: {exc}",
                    hint="start a worker of the app, which writes its entry again, or produce a tombstone with this "
                    "key; --show-private does not need the entries",
                ) from exc
    return list(apps.values())
