"""Resets an app: it forgets what it has read, so that the next worker begins with the first record of its topics.

The model is Kafka Streams' application reset tool. What belongs to the app is deleted, in this order:

1. the consumer group with its committed offsets. Kafka refuses that while the group has members, and then nothing has
   been deleted. A reset that ends after this step leaves changelogs without offsets, and workers refuse to start with
   these; the same command finishes the reset;
2. what `dlq replay` knows of the app's dead letters: those whose records are processed again are done, and those whose
   records no worker has read from the retry topics that are deleted are not;
3. the topics that the app made for itself: changelogs, repartition topics, retry topics, the topic of its workers and
   those of replies;
4. the folders with the stores of its workers, on this machine.

Topics that the program names are never deleted, whatever they are called, nor are dead-letter topics. Only topics that
the program of today would make are the app's own: a changelog of a table that it does not declare any more is kept.
"""

from __future__ import annotations

import re
import shutil
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from ..agents.app import App
from ..agents.engine.protocols import topics_read
from ..agents.engine.worker_identity import Identity, slots
from ..agents.runtime import Runtime, runtime_of
from ..topics import clock
from ..topics.admin import Admin
from ..topics.consumer_groups import ConsumerGroups
from ..topics.dead_letter import (
    FIRED,
    RETRY_SUFFIX,
    dead_letter_topic,
    fired_retry_topics,
    own_retry_topics,
    retry_topic,
)
from ..topics.errors import Stop, Usage
from ..topics.topic_partition import TopicPartition
from .dead_letters.dead_letter_reader import DeadLetterRecord
from .dead_letters.superseded import forget_ends, supersede, take_back
from .run_state import RUNS_TOPIC

__all__ = ["AppReset", "ResetPlan", "own_topics", "topics_of_agents"]

_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@dataclass(frozen=True, slots=True)
class ResetPlan:
    """The topics, offsets and folders that a reset deletes, and those that it keeps.

    Attributes:
        offsets: the committed offsets of the app's group.
        group: whether the group exists, with or without offsets.
        topics: the app's own topics -> number of offsets in them, which is at least that of their records.
        folders: folders of workers' stores on this machine.
        read: topics that the app reads; they are kept.
        similar: topics that are kept although their names look as if the app had made them.
    """

    offsets: Mapping[TopicPartition, int]
    group: bool
    topics: Mapping[str, int]
    folders: tuple[Path, ...]
    read: tuple[str, ...]
    similar: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """True if there is nothing to delete."""
        return not (self.group or self.topics or self.folders)


class AppReset:
    """The reset of one app on the cluster that its runtime has.

    Raises:
        Usage: the app belongs to a bounded run, which `anabranch runs` deletes.
    """

    def __init__(self, app: App) -> None:
        runtime = runtime_of(app)
        if runtime.run_id:
            raise Usage(f"{app.conf.id} is a bounded run", hint=f"anabranch runs {app.conf.id} --forget")
        self._runtime = runtime
        self._group, self._data = runtime.group_id, Path(app.conf.appdir)
        self._admin, self._groups = Admin(runtime.cluster), ConsumerGroups(runtime.cluster)

    def plan(self) -> ResetPlan:
        """Return what would be deleted (blocking)."""
        counts = self._admin.partitions()
        reads = topics_of_agents(self._runtime)
        own = own_topics(self._runtime, counts)
        begins, ends = self._admin.spans((name, number) for name in own for number in range(counts[name]))
        sizes = dict.fromkeys(own, 0)
        for at, end in ends.items():
            sizes[at.topic] += end - begins[at]
        offsets = {at: offset for at, (offset, _) in sorted(self._groups.offsets(self._group).items())}
        similar = (name for name in counts if name not in own and self._looks_own(name))
        return ResetPlan(
            offsets,
            bool(offsets) or self._admin.has_group(self._group),
            sizes,
            tuple(self._folders()),
            tuple(sorted(({topic for topics in reads.values() for topic in topics} & counts.keys()) - set(own))),
            tuple(sorted(set(similar) - self._runtime.described.keys())),
        )

    def check_stopped(self) -> None:
        """Refuse to reset an app whose workers run (blocking).

        Raises:
            Stop: the group has members, or a worker uses the data folder.
        """
        with ExitStack() as held:
            self._hold(held)

    def execute(
        self, plan: ResetPlan, *, start: Literal["earliest", "latest"] = "earliest", runs_topic: str = RUNS_TOPIC
    ) -> int:
        """Delete what the plan names (blocking); returns how many dead letters `dlq replay` will not bring any more.

        With `earliest` these are all whose records are processed again; with `latest` there are none.

        Args:
            start: where the next worker begins to read; `latest` skips all records that are in the topics now.

        Raises:
            Stop: see `check_stopped`; nothing has been deleted then.
        """
        with ExitStack() as held:
            self._hold(held)
            self._admin.delete_group(self._group)
            if plan.group:  # a reset that has ended behind this cannot tell any more what was read
                take_back(self._runtime.cluster, self._unread(plan), runs_topic=runs_topic)
            forget_ends(self._runtime.cluster, plan.topics, runs_topic=runs_topic)
            superseded = self._supersede(plan, runs_topic) if start == "earliest" else 0
            self._admin.delete(plan.topics)
            for folder in plan.folders:
                shutil.rmtree(folder)
            if (start == "latest") != self._runtime.settings.start_at_end:
                self._groups.begin_at(self._group, plan.read, start)
        return superseded

    def _unread(self, plan: ResetPlan) -> dict[TopicPartition, int]:
        """Return up to where the partitions of retry topics are read that hold more."""
        retry, counts = {topic for topic in plan.topics if topic.endswith(RETRY_SUFFIX)}, self._admin.partitions()
        begins, ends = self._admin.spans((topic, n) for topic in retry & counts.keys() for n in range(counts[topic]))
        read = {at: max(begin, plan.offsets.get(at, begin)) for at, begin in begins.items()}
        return {at: offset for at, offset in read.items() if offset < ends[at]}

    def _supersede(self, plan: ResetPlan, runs_topic: str) -> int:
        """Store that dead letters are done whose records are still in the app's topics, and so processed again."""
        counts = self._admin.partitions()
        begins, ends = self._admin.spans((topic, number) for topic in plan.read for number in range(counts[topic]))

        @cache
        def oldest_ms() -> int:
            return self._oldest_ms([at for at, begin in begins.items() if begin])

        def comes_again(letter: DeadLetterRecord) -> bool:
            origin = letter.origin
            if origin is None or letter.facts.get("app") != self._runtime.conf.id:
                return False
            if origin.topic in plan.topics:  # made of records of which only the time is known
                return letter.record_ms >= oldest_ms()
            at = TopicPartition(origin.topic, origin.partition)
            if at not in begins:
                return False
            if letter.reason in ("timer", "window"):  # it came of the records in front of its offset
                return begins[at] <= max(0, origin.offset - 1) and origin.offset <= ends[at]
            return begins[at] <= origin.offset < ends[at]

        letters = {dead_letter_topic(topic) for topic in (*plan.read, *plan.topics)} & counts.keys()
        return supersede(self._runtime.cluster, sorted(letters), comes_again, runs_topic=runs_topic)

    def _oldest_ms(self, cut: Collection[TopicPartition]) -> int:
        """Return from which time on no records are missing from partitions whose first ones have been deleted."""
        if not cut:
            return -(2**63)
        first = self._admin.since(cut, 0)

        def has_older(time_ms: int) -> bool:
            return all(offset > first[at] for at, offset in self._admin.since(cut, time_ms).items())

        return bisect_left(range(clock.now_ms()), True, key=has_older)

    def _hold(self, held: ExitStack) -> None:
        """Check that no worker runs, and keep workers of this machine from starting until `held` is closed."""
        if members := self._groups.size(self._group):
            raise Stop(
                f"workers of {self._group} are running ({members})",
                hint="stop them first; a worker that was killed leaves the group after its session timeout",
            )
        used = list(range(slots(self._data)))
        if used and [held.enter_context(Identity(self._data)).slot for _ in used] != used:
            raise Stop(f"a worker uses {self._data}", hint="stop it first, or name another --datadir")

    def _looks_own(self, name: str) -> bool:
        app_id = self._runtime.conf.id
        if name.startswith(f"{app_id}-run-"):  # of a bounded run, which `anabranch runs` deletes
            return False
        return name.startswith(f"{app_id}-") and name.endswith(("-changelog", "-repartition", "-retry"))

    def _folders(self) -> Iterable[Path]:
        """Return the folders with stores and positions; identities are kept, so that a restart is quick."""
        return sorted(folder for folder in self._data.glob("*") if folder.is_dir() and folder.name.isdigit())


def topics_of_agents(runtime: Runtime) -> dict[str, list[str]]:
    """Return agent -> the topics that it reads."""
    return {name: topics_read(agent) for name, agent in runtime.agents.items()}


def own_topics(runtime: Runtime, existing: Iterable[str]) -> list[str]:
    """Return those of the existing topics that the app, as it is declared now, makes for itself."""
    app_id = runtime.conf.id
    changelogs = {table.changelog_name for table in runtime.tables}
    described = {name: topic.internal or topic.has_prefix for name, topic in runtime.described.items()}
    made = {f"{app_id}-workers"}
    patterns = [f"{re.escape(app_id)}-reply-{_UUID}"]
    for agent, topics in topics_of_agents(runtime).items():
        made |= {name for kind in FIRED for name in fired_retry_topics(app_id, agent, kind)}
        made |= {retry_topic(app_id, agent)}
        made |= {name for topic in topics for name in own_retry_topics(app_id, agent, topic)}
        # `group_by` makes these topics when the agent runs.
        patterns += [f"{re.escape(f'{app_id}-{agent}-{topic}')}-.+-repartition" for topic in topics]
    own = re.compile("|".join(patterns))
    return sorted(
        name
        for name in existing
        if name in changelogs or described.get(name, name in made or own.fullmatch(name) is not None)
    )
