"""The private fields of a topic as a command knows them: declared by the app that it loads, and published by others."""

from __future__ import annotations

from ..topics.admin import Admin
from ..topics.cluster import Cluster
from ..topics.private_fields import NOTHING, PrivateFields
from ..topics.private_registry import fields_of_topic
from ..topics.private_texts import shows

__all__ = ["private_fields"]


def private_fields(
    cluster: Cluster | None, topic: str, app: str | None = None, *, admin: Admin | None = None
) -> PrivateFields:
    """Return the private fields of a topic (blocking); none if they are shown on purpose.

    Args:
        cluster: None if no broker runs: only the app knows the fields.
        app: the app to load, as `-A` names it.

    Raises:
        Usage: the app cannot be loaded.
        Stop: the fields that apps have published cannot be read.
    """
    if shows():
        return NOTHING
    found = NOTHING if cluster is None else fields_of_topic(cluster, topic, admin=admin)
    if app:
        from .app_loader import load_app, runtime_of

        found = found.joined(runtime_of(load_app(app)).private.of(topic))
    return found
