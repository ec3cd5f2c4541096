"""Topics that an app has found it needs while it runs, made before the epoch that sends to them is committed."""

from __future__ import annotations

from dataclasses import replace

from ...topics.admin import Admin, TopicSpec
from ...topics.deadletter import HEADROOM_BYTES
from ...topics.errors import Stop
from ...topics.partition import RangePlan
from ...topics.plans import Plans
from .ports import Host

__all__ = ["NeededTopics"]


class NeededTopics:
    """What is known to be there, and what is to be made.

    Attributes:
        declared: names of topics that are known to be there.
    """

    def __init__(self, app: Host) -> None:
        self._app = app
        self.declared: set[str] = set()
        self._wanted: dict[str, tuple[TopicSpec, RangePlan | None]] = {}
        self._letters_of: dict[str, str] = {}

    def add(self, spec: TopicSpec, plan: RangePlan | None = None) -> None:
        """Have a topic there, spread by its plan."""
        if spec.name not in self.declared:
            self._wanted[spec.name] = spec, plan

    def add_letters(self, letters: str, topic: str) -> None:
        """Have a topic there for the dead letters of another."""
        if letters not in self.declared:
            self._letters_of[letters] = topic
            self.add(TopicSpec(letters, 1, self._app.conf.topic_replication_factor or 1))

    @property
    def wanted(self) -> bool:
        """Whether something may be missing."""
        return bool(self._wanted)

    def create(self) -> None:
        """Make what is missing (blocking).

        Raises:
            Stop: a topic does not exist, and the app must not make it; or it is spread by another plan.
        """
        if not self._wanted:
            return
        wanted = list(self._wanted.values())
        admin = self._app.admin
        existing = admin.partitions([spec.name for spec, _ in wanted])
        missing = [spec for spec, _ in wanted if spec.name not in existing]
        if missing and not self._app.conf.topic_allow_declare:
            listed = ", ".join(sorted(spec.name for spec in missing))
            raise Stop(f"no such topic: {listed}", hint="create it; topic_allow_declare is off")
        if planned := [(spec, plan) for spec, plan in wanted if plan is not None]:
            self._app.plans |= Plans(self._app.cluster, admin).agree(planned)
        admin.create([self._sized(admin, spec) for spec, plan in wanted if plan is None and spec in missing])
        self.declared |= {spec.name for spec, _ in wanted}
        for spec, _ in wanted:
            self._wanted.pop(spec.name, None)

    def _sized(self, admin: Admin, spec: TopicSpec) -> TopicSpec:
        """A topic for dead letters takes that of the largest record."""
        if spec.name not in self._letters_of:
            return spec
        most = int(admin.config(self._letters_of[spec.name])["max.message.bytes"])
        return replace(spec, config={"max.message.bytes": str(most + HEADROOM_BYTES)})
