"""The topics behind a worker's offsets and tables, by id: one that is deleted and made anew has another.

An offset says something about a topic only while it is the same topic. Laws:

- Before offsets are committed, the ids of their topics are compared, and those of the changelogs that the epoch writes
  to. Of a topic that was made anew nothing is committed, and the worker stops. Kafka forgets a group's offsets of a
  topic that it deletes, so the next start begins with the first record of the new one.
- When partitions are assigned, the ids of their topics are compared with those that this worker knows. Where the group
  has no offset in the new topic, it is read from its beginning; where a table has content from the old one, the worker
  stops instead (`refuse_double_counting`).
- A worker knows the ids of the topics that it has read. It keeps them in its data folder, beside its stores; one whose
  folder is lost, or another worker, knows those that it reads from then on.

Format: `<data folder>/<slot>/inputs.json`, `{"<topic>": "<id>"}`, replaced as a whole.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ...topics.admin import Admin
from ...topics.errors import Stop

__all__ = ["TopicIds"]

logger = logging.getLogger(__name__)


class TopicIds:
    """See the module.

    Args:
        group: the app's id.
        path: of the file; it need not exist.
    """

    def __init__(self, admin: Admin, group: str, path: Path) -> None:
        self._admin, self._group, self._path = admin, group, path
        self._inputs: dict[str, str] = {}
        self._changelogs: dict[str, str] = {}
        self._kept = _read(path)

    def of(self, topics: Iterable[str]) -> dict[str, str]:
        """Ids as they are now (blocking), of topics that exist."""
        names = list(topics)
        return self._admin.ask_topic_ids(names)() if names else {}

    def recreated(self, ids: Mapping[str, str]) -> set[str]:
        """Which topics are others than those that this worker has read."""
        known = {**self._kept, **self._inputs}
        anew = {topic for topic, found in ids.items() if known.get(topic, found) != found}
        for topic in anew:
            logger.warning("topic %s was deleted and made anew since this worker has read it", topic)
        return anew

    def watch(self, inputs: Mapping[str, str]) -> None:
        """Records of these topics flow from now on."""
        self._inputs.update(inputs)

    def watch_changelogs(self, names: Iterable[str]) -> None:
        """Tables are written to these (blocking).

        Raises:
            Stop: one is another than before.
        """
        wanted = set(names)
        ids = self.of(wanted)
        self._compare(ids)
        self._changelogs.update(ids)

    def keep(self) -> None:
        """Write down what is known of inputs (blocking)."""
        known = {**self._kept, **self._inputs}
        if known != self._kept:
            self._kept = known
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(self._kept))
            new.replace(self._path)

    def comparing(self, topics: Iterable[str]) -> Callable[[], None]:
        """Begin to ask for ids; what is returned waits for the answer and compares (blocking).

        The returned function raises `Stop` where a topic was made anew. One that is not there, or of which the broker
        says nothing, is not another one.
        """
        watched = [topic for topic in topics if topic in self._inputs or topic in self._changelogs]
        answer = self._admin.ask_topic_ids(watched) if watched else dict[str, str]
        return lambda: self._compare(answer())

    def _compare(self, ids: Mapping[str, str]) -> None:
        for topic, found in ids.items():
            if self._inputs.get(topic, found) != found:
                raise Stop(
                    f"topic {topic} was deleted and made anew while group {self._group} read it; nothing of the new "
                    "one was committed",
                    hint="start the worker again: it begins with the first record of the new topic",
                )
            if self._changelogs.get(topic, found) != found:
                raise Stop(
                    f"changelog {topic} was deleted and made anew while this worker wrote to it: it no longer holds "
                    "the whole table",
                    hint="bring the table back from a backup (anabranch tables restore), or compute it anew, with the "
                    f"offsets of group {self._group} at the beginning",
                )


def _read(path: Path) -> dict[str, str]:
    try:
        return {str(topic): str(found) for topic, found in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as exc:
        logger.warning("%s cannot be read, so topics that were made anew since are not noticed: %s", path, exc)
        return {}
