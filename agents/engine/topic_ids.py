"""Detects by topic id that a topic behind a worker's offsets or tables was deleted and recreated.

A recreated topic has a new id, and offsets of the old topic have no meaning in it. Invariants:

- Before a commit, the ids of the topics whose offsets are committed are compared, and the ids of the changelogs that
  the epoch writes. If a topic was recreated, nothing of it is committed and the worker stops. Kafka deletes a group's
  offsets together with the topic, so the next start begins with the first record of the new topic.
- When partitions are assigned, the ids of their topics are compared with the ids that this worker knows. If the group
  has no offset in the new topic, the topic is read from its beginning. If a table has content from the old topic, the
  worker stops instead (`double_counting.py`).
- A worker knows the ids of the topics that it has read. It keeps them in its data folder, next to its stores. A worker
  that lost its folder, or another worker, knows only the topics that it reads from then on.

Format: `<data folder>/<slot>/inputs.json`, `{"<topic>": "<id>"}`, replaced as a whole.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ...topics.admin import Admin
from ...topics.durable_files import replace_file
from ...topics.errors import Stop

__all__ = ["TopicIds"]

logger = logging.getLogger(__name__)


class TopicIds:
    """The topic ids that a worker knows, and their comparison with the cluster.

    Args:
        group: the app's id.
        path: path of the file `inputs.json`, which need not exist.
    """

    def __init__(self, admin: Admin, group: str, path: Path) -> None:
        self._admin, self._group, self._path = admin, group, path
        self._inputs: dict[str, str] = {}
        self._changelogs: dict[str, str] = {}
        self._kept = _read(path)

    def of(self, topics: Iterable[str]) -> dict[str, str]:
        """Return the current ids of topics; topics that do not exist are omitted (blocking)."""
        names = list(topics)
        return self._admin.ask_topic_ids(names)() if names else {}

    def recreated(self, ids: Mapping[str, str]) -> set[str]:
        """Return the topics that were recreated since this worker read them."""
        known = {**self._kept, **self._inputs}
        recreated = {topic for topic, found in ids.items() if known.get(topic, found) != found}
        for topic in recreated:
            logger.warning("topic %s was deleted and recreated since this worker read it", topic)
        return recreated

    def watch(self, inputs: Mapping[str, str]) -> None:
        """Watch the ids of topics whose records are consumed from now on."""
        self._inputs.update(inputs)

    def watch_changelogs(self, names: Iterable[str]) -> None:
        """Watch the ids of changelogs that tables are written to from now on (blocking).

        Raises:
            Stop: a changelog was recreated.
        """
        wanted = set(names)
        ids = self.of(wanted)
        self._compare(ids)
        self._changelogs.update(ids)

    def keep(self) -> None:
        """Write the known ids of input topics to the file (blocking)."""
        known = {**self._kept, **self._inputs}
        if known != self._kept:
            self._kept = known
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, json.dumps(self._kept).encode())

    def comparing(self, topics: Iterable[str]) -> Callable[[], None]:
        """Request the ids of topics; the returned function waits for the answer (blocking) and compares them.

        The returned function raises `Stop` if a topic was recreated. A topic that does not exist, or for which the
        broker returns no id, does not count as recreated.
        """
        watched = [topic for topic in topics if topic in self._inputs or topic in self._changelogs]
        answer = self._admin.ask_topic_ids(watched) if watched else dict[str, str]
        return lambda: self._compare(answer())

    def _compare(self, ids: Mapping[str, str]) -> None:
        for topic, found in ids.items():
            if self._inputs.get(topic, found) != found:
                raise Stop(
                    f"topic {topic} was deleted and recreated while group {self._group} read it; nothing of the new "
                    "one was committed",
                    hint="start the worker again: it begins with the first record of the new topic",
                )
            if self._changelogs.get(topic, found) != found:
                raise Stop(
                    f"changelog {topic} was deleted and recreated while this worker wrote to it: it no longer holds "
                    "the whole table",
                    hint="restore the table from a backup (anabranch tables restore), or recompute it, with the "
                    f"offsets of group {self._group} at the beginning",
                )


def _read(path: Path) -> dict[str, str]:
    try:
        return {str(topic): str(found) for topic, found in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as exc:
        logger.warning("%s cannot be read, so recreated topics are not detected: %s", path, exc)
        return {}
