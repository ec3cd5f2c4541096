"""The private fields of topics as a command knows them: declared by the app that it loads, and published by others."""

from __future__ import annotations

from collections.abc import Collection

from ..topics.admin import Admin
from ..topics.cluster import Cluster
from ..topics.private_fields import NOTHING, PrivateFields
from ..topics.private_registry import fields_of_topics
from ..topics.private_texts import shows

__all__ = ["private_fields", "private_fields_by_topic"]


def private_fields(cluster: Cluster | None, topic: str, app: str | None = None) -> PrivateFields:
    """Return the private fields of a topic; see `private_fields_by_topic`."""
    return private_fields_by_topic(cluster, [topic], app)[topic]


def private_fields_by_topic(
    cluster: Cluster | None, topics: Collection[str], app: str | None = None, *, admin: Admin | None = None
) -> dict[str, PrivateFields]:
    """Return topic -> its private fields (blocking); none if they are shown on purpose.

    Args:
        cluster: None if no broker runs: only the app knows the fields.
        app: the app to load, as `-A` names it.

    Raises:
        Usage: the app cannot be loaded.
        Stop: the fields that apps have published cannot be read.
    """
    found = dict.fromkeys(topics, NOTHING)
    if shows() or not topics:
        return found
    if cluster is not None:
        found = fields_of_topics(cluster, topics, admin=admin)
    if app:
        from .app_loader import load_app, runtime_of

        declared = runtime_of(load_app(app)).private
        found = {topic: fields.joined(declared.of(topic)) for topic, fields in found.items()}
    return found
