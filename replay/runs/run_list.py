"""The runs of a cluster as people see them: a replay by itself, the replays of a bounded run together; and forgetting.

The replays of a bounded run are named `<app>-run-<id>-<n>` and feed topics `<app>-run-<id>-…`; that is how they are
known. What begins with that name is the run's own: topics, changelogs, the group, the folder with its workers' data.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.producer import TransactionalProducer
from ..cluster_choice import home
from ..run_registry import RunRegistry, RunState

__all__ = ["Doomed", "Kept", "RunList"]

_BOUNDED = re.compile(r"(.+-run-.+)-\d+")


@dataclass(frozen=True, slots=True)
class Kept:
    """A run.

    Attributes:
        name: the id of a replay, or the app id of a bounded run.
        bounded: it has topics of its own.
        states: of its replays.
    """

    name: str
    bounded: bool
    states: tuple[RunState, ...]

    @property
    def done(self) -> bool:
        """Whether everything was sent."""
        return all(state.done for state in self.states)

    @property
    def records(self) -> int:
        """How many records were sent."""
        return sum(state.sent for state in self.states)

    @property
    def started_ms(self) -> int:
        """When it was begun."""
        return min(state.started_ms for state in self.states)

    @property
    def updated_ms(self) -> int:
        """When it last sent something."""
        return max(state.updated_ms for state in self.states)

    def facts(self) -> dict[str, Any]:
        """As plain JSON."""
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
class Doomed:
    """What goes with a bounded run."""

    topics: tuple[str, ...] = ()
    group: str | None = None
    folder: Path | None = None

    def lines(self) -> list[str]:
        """For people."""
        found = [f"topic {topic} is deleted" for topic in self.topics]
        found += [f"group {self.group} is deleted"] if self.group else []
        return found + ([f"folder {self.folder} is deleted"] if self.folder else [])


class RunList:
    """The topic of runs, read as a whole."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._runs, self._admin = cluster, RunRegistry(cluster), Admin(cluster)

    def runs(self) -> list[Kept]:
        """All runs, the latest last."""
        grouped: dict[tuple[str, bool], list[RunState]] = {}
        for state in self._runs.all():
            found = _BOUNDED.fullmatch(state.run_id)
            bounded = found is not None and state.topic.startswith(f"{found[1]}-")
            grouped.setdefault((found[1] if found and bounded else state.run_id, bounded), []).append(state)
        kept = [
            Kept(name, bounded, tuple(sorted(states, key=lambda state: state.run_id)))
            for (name, bounded), states in grouped.items()
        ]
        return sorted(kept, key=lambda run: run.updated_ms or run.started_ms)

    def doomed(self, run: Kept) -> Doomed:
        """What would be deleted with a run; for a replay nothing, for its topic is others' too."""
        if not run.bounded:
            return Doomed()
        others = [kept.name for kept in self.runs() if kept.name.startswith(f"{run.name}-")]
        topics = [topic for topic in self._admin.partitions() if _belongs(topic, run.name, others)]
        folder = home() / run.name
        group = run.name if self._admin.has_group(run.name) else None
        return Doomed(tuple(sorted(topics)), group, folder if folder.is_dir() else None)

    def forget(self, run: Kept, doomed: Doomed) -> None:
        """Forget it; one that is still going is fenced first, so that it cannot write its state again (blocking)."""
        for state in run.states:
            producer = TransactionalProducer(self._cluster, f"anabranch-replay-{state.run_id}")
            try:
                producer.open()
                if state is run.states[0]:
                    if doomed.group is not None:
                        self._admin.delete_group(doomed.group)
                    self._admin.delete(doomed.topics)
                    if doomed.folder is not None:
                        shutil.rmtree(doomed.folder)
                producer.begin()
                producer.produce(self._runs.topic, None, state.run_id.encode())
                producer.commit()
            finally:
                producer.close()


def _belongs(topic: str, name: str, others: Sequence[str]) -> bool:
    """Whether a topic is that run's, and not that of a run whose name begins likewise."""
    return topic.startswith(f"{name}-") and not any(topic.startswith(f"{other}-") for other in others)
