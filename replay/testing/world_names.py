"""What a test names and sends, as the app of a world knows it: agents, keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ...agents.app import App
from ...agents.declarations import nearest
from ...topics.errors import Usage
from ...topics.keys import record_key
from ...topics.serde import codec

if TYPE_CHECKING:
    from ...agents.topic import Topic

__all__ = ["agent_of", "encoded", "encoded_key"]


def encoded(declared: Topic | None, value: object) -> bytes | None:
    """Return a value as the app declares the topic, else as JSON; bytes and None stay as they are."""
    if value is None or isinstance(value, bytes):
        return value
    if declared is None:
        return value.encode() if isinstance(value, str) else codec(None).encode(value)
    if isinstance(value, dict) and not isinstance(declared.value_type, type(None)):
        return codec(None).encode(value)  # of a struct or a Faust record
    return declared.encode_value(value)


def encoded_key(declared: Topic | None, key: object) -> bytes | None:
    """Return a key as the app declares the topic, else as `record_key` does; bytes and None stay as they are."""
    if key is None or isinstance(key, bytes):
        return key
    return record_key(key) if declared is None else declared.encode_key(key)


def agent_of(app: App, agent: object) -> Any:
    """Return an agent of an app: by its name, its function, or the agent of another copy of the app.

    Raises:
        Usage: the app has no such agent.
    """
    agents = {str(name): found for name, found in app.agents.items()}
    name = agent if isinstance(agent, str) else getattr(agent, "name", None) or getattr(agent, "__name__", "")
    found = [other for other in agents if other == name or other.rpartition(".")[2] == name]
    if len(found) != 1:
        raise Usage(f"app {app.conf.id} has no agent {name!r}", hint=nearest(str(name), agents))
    return cast(Any, agents[found[0]])
