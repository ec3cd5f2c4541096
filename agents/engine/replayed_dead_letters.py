"""Retry topics: a record that `dlq replay` re-publishes reaches only the agent that failed to process it.

An agent that reads `orders` also reads `<app>-<agent>-retry`. This topic has the same number of partitions and the same
partitioner, so the agent's tables stay co-partitioned. An agent that reads several topics has a retry topic
`<app>-<agent>-<topic>-retry` for each of them; where that may be a topic of another agent, a digest is added to the
name. Only `dlq replay` creates retry topics: an app without dead letters has none. Workers check for new retry topics
at their start and every few seconds, and subscribe to them.

Timers of an agent that have failed return through a topic of their own, `<app>-<agent>-timers-retry`, of which each
record is a timer that fires again. An agent that has no timers does not read it. So do windows whose `on_window_close`
has failed, or that a flow could not send, through `<app>-<agent>-windows-retry`.

The original order is not kept: a re-published record is processed after newer records of its key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...topics import threads
from ...topics.dead_letter import (
    FIRED,
    RETRY_SUFFIX,
    Origin,
    fired_retry_topics,
    own_retry_topics,
    read_retry,
    retry_topic,
)
from ...topics.errors import AnabranchError
from ...topics.headers import headers_of
from ...topics.producer import Headers
from ...topics.threads import daemon_thread
from ...topics.topic_partition import TopicPartition
from ..tables.agent_window_table import AgentWindowTable
from ..tables.window_table import WindowTable
from .protocols import Host, RecordFeed, topics_read
from .router import Router

__all__ = ["RetryTopics", "existing_retry_topics"]

logger = logging.getLogger(__name__)

LOOK_S = 5.0


class _Streams:
    """The streams of one agent on one topic, as `Router.route` takes them from a channel."""

    def __init__(self, streams: list[RecordFeed], expected_streams: int) -> None:
        self.streams, self.expected_streams = streams, expected_streams


class RetryTopics:
    """The retry topics of an app.

    Attributes:
        read: retry topic -> (agent, topic that it stands for), for retry topics that exist and are subscribed.
    """

    def __init__(self, host: Host, router: Router) -> None:
        self._host, self._router = host, router
        self.read: dict[str, tuple[str, str]] = {}

    def of(self, agent: str, topic: str) -> str:
        """Return the retry topic to which a record of a topic is re-published for an agent."""
        return _of(self._host, agent, topic)

    def of_fired(self, agent: str, kind: str) -> str:
        """Return the retry topic of what an agent fires of a kind, such as its timers: one that no records go to."""
        return _of_fired(self._host, agent, kind)

    def is_of_fired(self, agent: str, topic: str) -> bool:
        """Return whether the records of a topic are what an agent has fired; read as records, they would be wrong."""
        return topic in (self.of_fired(agent, kind) for kind in FIRED)

    def possible(self) -> dict[str, tuple[str, str]]:
        """Return all retry topics that the app reads if they exist, in the form of `read`."""
        found: dict[str, tuple[str, str]] = {}
        pairs = [(name, topic) for name, agent in self._host.agents.items() for topic in topics_read(agent)]
        pairs += [(stream.name, topic) for stream in self._router.streams for topic in stream.topic.topics]
        for agent, topic in pairs:
            found[self.of(agent, topic)] = agent, topic
        for agent, topic in pairs:
            # Dead letters of an agent that reads, or has read, only this topic name the first retry topic; of one that
            # reads several now, the second.
            found.setdefault(retry_topic(self._host.conf.id, agent), (agent, topic))
            found.setdefault(retry_topic(self._host.conf.id, agent, topic), (agent, topic))
        for stream in self._router.streams:
            if stream.clock is not None:  # behind `group_by`, that is another topic than the agent's
                found[self.of_fired(stream.name, "timers")] = stream.name, stream.topic.topics[0]
            tells = stream.windows is not None and stream.windows.tells and not stream.grouped
            filled = _filled_by(self._host, stream.name)
            if tells or (filled is not None and filled.is_sent):
                found[self.of_fired(stream.name, "windows")] = stream.name, stream.topic.topics[0]
        declared = {name for topic in self._host.topics for name in topic.topics}
        return {name: of for name, of in found.items() if name not in declared}

    def look(self, existing: Iterable[str]) -> bool:
        """Add the existing retry topics to `read`; return whether there are new ones."""
        possible = self.possible()
        new = {name: possible[name] for name in existing if name in possible and name not in self.read}
        self.read |= new
        return bool(new)

    async def watch(self, subscribe: Callable[[], None]) -> None:
        """Check for new retry topics every `LOOK_S` seconds until cancelled; call `subscribe` when there are any."""
        while True:
            await threads.idle(LOOK_S)
            try:
                existing = await daemon_thread(self._host.admin.existing, self.possible().keys() - self.read.keys())
            except AnabranchError as exc:
                logger.debug("looking for retry topics: %s", exc)
                continue
            if existing and self.look(existing):
                logger.info("retry topics: %s", ", ".join(sorted(self.read)))
                subscribe()

    def routes(self, owned: Iterable[TopicPartition]) -> Mapping[Any, Iterable[Any]]:
        """Return partition -> the streams that get its records, for owned retry partitions; see `Router.route`."""
        if not self.read:
            return {}
        return {at: [self._streams(*self.read[at.topic])] for at in owned if at.topic in self.read}

    def _streams(self, agent: str, topic: str) -> _Streams:
        streams = [s for s in self._router.streams if s.name == agent and topic in s.topic.topics]
        return _Streams(streams, streams[0].topic.expected_streams if streams else 1)

    def origin(self, message: Any) -> tuple[Origin | None, Headers | None]:
        """Return the original position of a record and its own headers.

        The position is None unless the record was read from a retry topic.
        """
        headers = headers_of(message)
        if not self.read or message.topic() not in self.read:
            return None, headers
        own, origin = read_retry(headers)
        _, topic = self.read[message.topic()]
        if origin is None or origin.topic != topic:  # not written by `dlq replay`, or the header names another topic
            origin = Origin(topic, message.partition(), message.offset(), getattr(message, "row", None))
        return origin, own


def _of(host: Host, agent: str, topic: str) -> str:
    found, app = host.agents.get(agent), host.conf.id
    if found is not None and topics_read(found) == [topic]:
        return retry_topic(app, agent)
    own, other = own_retry_topics(app, agent, topic)
    return other if any(own in _names_of(host, name) for name in host.agents if name != agent) else own


def _names_of(host: Host, agent: str) -> set[str]:
    """Return the names that an agent's retry topics for records may have, however many topics it reads."""
    app, topics = host.conf.id, topics_read(host.agents[agent])
    return {retry_topic(app, agent, topic) for topic in (None, *topics)}


def _of_fired(host: Host, agent: str, kind: str) -> str:
    own, other = fired_retry_topics(host.conf.id, agent, kind)
    found = host.agents.get(agent)
    read = topics_read(found) if found else ()
    # A flow's agent has the name of its table, which is `<topic>-windows` unless it is given another.
    taken = f"{agent}-{kind}" in host.agents or own in (_of(host, agent, topic) for topic in read)
    return other if taken else own


def existing_retry_topics(host: Host, existing: Iterable[str]) -> list[str]:
    """Return the topics among some that are retry topics of the app, and that agents read.

    Not those of timers and windows for which the program has had a function when they were made, and has none now: what
    they hold waits for a program that has.
    """
    app, agents = host.conf.id, host.agents
    prefixes = tuple(f"{retry_topic(app, name).removesuffix(RETRY_SUFFIX)}-" for name in agents)
    found = [name for name in existing if name.endswith(RETRY_SUFFIX) and name.startswith(prefixes)]
    unread = _unread(host)
    return [name for name in found if name not in unread]


def _unread(host: Host) -> set[str]:
    """Return the retry topics of what agents have fired of a kind that they do not fire any more."""
    fired = [(name, kind) for name in host.agents for kind in FIRED]
    read = {topic for name in host.agents for topic in _names_of(host, name)}
    read |= {_of_fired(host, name, kind) for name, kind in fired if _fires(host, name, kind)}
    return {topic for name, kind in fired for topic in fired_retry_topics(host.conf.id, name, kind)} - read


def _fires(host: Host, agent: str, kind: str) -> bool:
    """Return whether an agent may fire something of a kind, as far as the program declares it."""
    if kind == "timers":
        return host.agents[agent].timers is not None
    filled = _filled_by(host, agent)
    if filled is not None:
        return filled.is_sent
    # Any other agent may write to the tables that agents write, and closes their windows then.
    return any(isinstance(table, AgentWindowTable) and table.on_close is not None for table in host.tables)


def _filled_by(host: Host, agent: str) -> WindowTable | None:
    """Return the table of windows that the agent of a flow fills; None for any other agent."""
    of_flows = (t for t in host.tables if isinstance(t, WindowTable) and not isinstance(t, AgentWindowTable))
    return next((table for table in of_flows if table.name == agent), None)
