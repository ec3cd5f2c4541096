"""Names, keys and values that a test gives, resolved and encoded as the app of a world declares them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...agents.topic import Topic
from ...topics.admin import TopicSpec
from ...topics.errors import Usage
from ...topics.keys import record_key
from ...topics.serde import codec
from ...topics.spelling import did_you_mean

__all__ = [
    "agent_of",
    "check_name",
    "check_partitions",
    "declared_topic",
    "encoded",
    "encoded_key",
    "topics_to_create",
]


def check_name(name: object, kind: str) -> None:
    """Refuse a topic or table itself in place of its name.

    Raises:
        Usage: it is not text.
    """
    if not isinstance(name, str):
        own = name.get_topic_name() if isinstance(name, Topic) else getattr(name, "name", None)
        hint = f"give its name: {own!r}" if isinstance(own, str) else f"give the name of a {kind}"
        raise Usage(f"{name!r} is no name of a {kind}", hint=hint)


def check_partitions(partitions: int | Mapping[str, int] | None) -> None:
    """Refuse numbers of partitions that no topic can have.

    Raises:
        Usage: one is not positive.
    """
    for number in partitions.values() if isinstance(partitions, Mapping) else [partitions]:
        if not isinstance(cast(object, number), int | None):
            raise Usage(f"{number!r} is no number of partitions", hint='partitions=4, or partitions={"orders": 4}')
        if number is not None and number < 1:
            raise Usage(f"a topic with {number} partitions", hint="a topic has at least one")


def topics_to_create(
    app: App, partitions: int | Mapping[str, int] | None, *, resolve: Callable[[str], str] = str
) -> Iterator[tuple[TopicSpec, Topic | None]]:
    """Yield the topics that a test gives a number of partitions by name, each with how the app declares it.

    Args:
        resolve: returns the name in Kafka of a topic of the program.

    Raises:
        Usage: one number is given, and all topics of the app declare others.
    """
    runtime = runtime_of(app)
    if isinstance(partitions, int):
        counts = {name: topic.partitions for name, topic in runtime.described.items() if not topic.has_prefix}
        if counts and None not in counts.values() and partitions not in counts.values():
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise Usage(
                f"partitions={partitions} is for topics that declare no number, and all of the app do: {listed}",
                hint=f"name the topic: partitions={{{next(iter(counts))!r}: {partitions}}}",
            )
    for topic, number in partitions.items() if isinstance(partitions, Mapping) else ():
        name = resolve(topic)
        declared = runtime.described.get(name)
        spec = TopicSpec(name, number) if declared is None else runtime.provisioner.spec_of(declared, name)
        yield replace(spec, partitions=number), declared


def declared_topic(app: App, topic: str, stored: Iterable[str], *, name: str = "") -> Topic | None:
    """Return a topic as an app declares it; None if it only exists in Kafka.

    Args:
        stored: names of topics that exist.
        name: its name in Kafka if that differs from `topic`, the name in the program.

    Raises:
        Usage: it is neither declared nor in Kafka.
    """
    check_name(topic, "topic")
    described, stored = runtime_of(app).described, set(stored)
    name = name or topic
    if name not in described and name not in stored:
        prefix = name.removesuffix(topic)
        known = {other.removeprefix(prefix) for other in {*described, *stored}}
        raise Usage(
            f"app {app.conf.id} knows no topic {topic!r}",
            hint=did_you_mean(topic, known, "World(…, partitions={'name': 4}) creates one"),
        )
    return described.get(name)


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


def _nearest_agent(name: str, agents: Iterable[str]) -> str:
    short = {agent.rpartition(".")[2]: agent for agent in agents}
    return did_you_mean(name, {*short, *short.values()}, f"it has: {', '.join(short) or 'none'}")


def agent_of(app: App, agent: object) -> Any:
    """Return an agent of an app: by its name, its function, or the agent of another copy of the app.

    Raises:
        Usage: the app has no such agent.
    """
    agents = {str(name): found for name, found in app.agents.items()}
    name = agent if isinstance(agent, str) else getattr(agent, "name", None) or getattr(agent, "__name__", "")
    found = [other for other in agents if other == name or other.rpartition(".")[2] == name]
    if len(found) != 1:
        raise Usage(f"app {app.conf.id} has no agent {name!r}", hint=_nearest_agent(str(name), agents))
    return cast(Any, agents[found[0]])
