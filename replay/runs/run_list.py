"""Lists the runs of a cluster and deletes them. The replays of a bounded run are listed together, as one run.

The replays of a bounded run have ids `<app>-run-<id>-<n>` and feed topics `<app>-run-<id>-…`, by which they are
recognised. Everything whose name begins with `<app>-run-<id>` belongs to the run: its topics, its changelogs, its group
and the folder with its workers' data.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.producer import TransactionalProducer
from ..cluster_choice import home
from ..run_state import RunRegistry, RunState

__all__ = ["RunList", "RunResources", "RunSummary"]

_BOUNDED = re.compile(r"(.+-run-.+)-\d+")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run, as it is listed.

    Attributes:
        name: the run id of a replay, or the app id of a bounded run.
        bounded: it is a bounded run, which has topics of its own.
        states: the states of its replays.
    """

    name: str
    bounded: bool
    states: tuple[RunState, ...]

    @property
    def done(self) -> bool:
        """True if all records were sent."""
        return all(state.done for state in self.states)

    @property
    def records(self) -> int:
        """How many records were sent."""
        return sum(state.sent for state in self.states)

    @property
    def started_ms(self) -> int:
        """When the run was started first, in milliseconds since 1970."""
        return min(state.started_ms for state in self.states)

    @property
    def updated_ms(self) -> int:
        """When the run last committed, in milliseconds since 1970."""
        return max(state.updated_ms for state in self.states)

    def facts(self) -> dict[str, object]:
        """Return the run as plain JSON."""
        return {
            "run": self.name,
            "bounded": self.bounded,
            "done": self.done,
            "records": self.records,
            "started_ms": self.started_ms,
            "updated_ms": self.updated_ms,
            "sources": [spec for state in self.states for spec in state.specs],
            "topics": [state.topic for state in self.states],
        }


@dataclass(frozen=True, slots=True)
class RunResources:
    """The topics, the group and the folder that belong to a bounded run and are deleted with it."""

    topics: tuple[str, ...] = ()
    group: str | None = None
    folder: Path | None = None

    def lines(self) -> list[str]:
        """Return what is deleted, one line each."""
        found = [f"topic {topic} is deleted" for topic in self.topics]
        found += [f"group {self.group} is deleted"] if self.group else []
        return found + ([f"folder {self.folder} is deleted"] if self.folder else [])


class RunList:
    """The runs of a cluster, read from the topic of runs."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._runs, self._admin = cluster, RunRegistry(cluster), Admin(cluster)

    def runs(self) -> list[RunSummary]:
        """Return all runs, the one that committed last at the end (blocking)."""
        grouped: dict[tuple[str, bool], list[RunState]] = {}
        for state in self._runs.all():
            found = _BOUNDED.fullmatch(state.run_id)
            bounded = found is not None and state.topic.startswith(f"{found[1]}-")
            grouped.setdefault((found[1] if found and bounded else state.run_id, bounded), []).append(state)
        kept = [
            RunSummary(name, bounded, tuple(sorted(states, key=lambda state: state.run_id)))
            for (name, bounded), states in grouped.items()
        ]
        return sorted(kept, key=lambda run: run.updated_ms or run.started_ms)

    def resources(self, run: RunSummary) -> RunResources:
        """Return what is deleted with a run (blocking); nothing for a replay, because others may use its topic."""
        if not run.bounded:
            return RunResources()
        others = [kept.name for kept in self.runs() if kept.name.startswith(f"{run.name}-")]
        topics = [topic for topic in self._admin.partitions() if _belongs(topic, run.name, others)]
        folder = home() / run.name
        group = run.name if self._admin.has_group(run.name) else None
        return RunResources(tuple(sorted(topics)), group, folder if folder.is_dir() else None)

    def forget(self, run: RunSummary, resources: RunResources) -> None:
        """Delete a run and its resources (blocking); fences an active run first, so it cannot write its state again."""
        for state in run.states:
            producer = TransactionalProducer(self._cluster, f"anabranch-replay-{state.run_id}")
            try:
                producer.open()
                if state is run.states[0]:
                    if resources.group is not None:
                        self._admin.delete_group(resources.group)
                    self._admin.delete(resources.topics)
                    if resources.folder is not None:
                        shutil.rmtree(resources.folder)
                producer.begin()
                producer.produce(self._runs.topic, None, state.run_id.encode())
                producer.commit()
            finally:
                producer.close()


def _belongs(topic: str, name: str, others: Sequence[str]) -> bool:
    """Return whether a topic belongs to this run, and not to another run whose name begins with the same text."""
    return topic.startswith(f"{name}-") and not any(topic.startswith(f"{other}-") for other in others)
