"""Topics that an app has found it needs while it runs, made before the epoch that sends to them is committed."""

from __future__ import annotations

from dataclasses import replace

from ...topics.admin import Admin, TopicSpec
from ...topics.dead_letter import HEADROOM_BYTES
from ...topics.errors import BadRecord, Stop, is_refusal, kafka_cause
from ...topics.partitioner_registry import PartitionerRegistry
from ...topics.partitioners import RangePartitioner
from .protocols import Host
from .rejected_records import Refused

__all__ = ["TopicProvisioner"]


class TopicProvisioner:
    """What is known to be there, and what is to be made.

    Attributes:
        declared: names of topics that are known to be there.
        written: those of topics that the program names before it runs.
        refused: topic -> why the cluster does not make it, of those that agents have named.
    """

    def __init__(self, app: Host) -> None:
        self._app = app
        self.declared: set[str] = set()
        self.written: set[str] = set()
        self.refused: dict[str, BadRecord] = {}
        self._wanted: dict[str, tuple[TopicSpec, RangePartitioner | None]] = {}
        self._letters_of: dict[str, str] = {}

    def add(self, spec: TopicSpec, plan: RangePartitioner | None = None) -> None:
        """Have a topic there, spread by its plan.

        Raises:
            BadRecord: the cluster has refused to make it, a moment ago.
        """
        if spec.name in self.refused:
            raise self.refused[spec.name]
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
            Refused: an agent has named a topic that does not exist, and that the app, or the cluster, must not make.
            Stop: likewise of a topic that the program names; or it is spread by another plan.
        """
        if not self._wanted:
            return
        wanted = list(self._wanted.values())
        admin = self._app.admin
        existing = admin.partitions([spec.name for spec, _ in wanted])
        missing = [spec for spec, _ in wanted if spec.name not in existing]
        if missing and not self._app.conf.topic_allow_declare:
            self._refuse_missing([spec.name for spec in missing])
        if planned := [(spec, plan) for spec, plan in wanted if plan is not None]:
            self._app.plans |= PartitionerRegistry(self._app.cluster, admin).agree(planned)
        self._make(admin, [self._sized(admin, spec) for spec, plan in wanted if plan is None and spec in missing])
        self.declared |= {spec.name for spec, _ in wanted}
        for spec, _ in wanted:
            self._wanted.pop(spec.name, None)

    def _refuse_missing(self, names: list[str]) -> None:
        missing = ", ".join(sorted(names))
        if any(name in self.written or name in self._letters_of for name in names):
            raise Stop(f"no such topic: {missing}", hint="create it; topic_allow_declare is off")
        self._refuse({name: f"no such topic: {name}" for name in names}, "create it; topic_allow_declare is off")

    def _make(self, admin: Admin, specs: list[TopicSpec]) -> None:
        try:
            admin.create(specs)
            return
        except Stop as exc:
            if not _is_of_topic(exc):
                raise
        refused: dict[str, str] = {}
        for spec in specs:
            try:
                admin.create([spec])
            except Stop as exc:
                if not _is_of_topic(exc) or spec.name in self.written:
                    raise
                refused[spec.name] = str(exc.args[0])
        if refused:
            self._refuse(refused, "the name may be one that Kafka does not allow, or too like another")

    def _refuse(self, why: dict[str, str], hint: str) -> None:
        """Agents that send there fail from now on."""
        for name, text in why.items():
            self._wanted.pop(name, None)
            self.refused[name] = BadRecord(text, hint=hint)
        raise Refused({}, list(why), "; ".join(why.values()), news=True)

    def _sized(self, admin: Admin, spec: TopicSpec) -> TopicSpec:
        """A topic for dead letters takes that of the largest record."""
        if spec.name not in self._letters_of:
            return spec
        most = int(admin.config(self._letters_of[spec.name])["max.message.bytes"])
        return replace(spec, config={"max.message.bytes": str(most + HEADROOM_BYTES)})


def _is_of_topic(error: Stop) -> bool:
    """Whether the cluster does not want a topic, and would another."""
    cause = kafka_cause(error)
    return cause is not None and is_refusal(cause)
