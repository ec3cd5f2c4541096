"""The settings of the engine that an operator can change. Each default is documented with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, isnan
from numbers import Integral, Real
from typing import Any, Literal, cast

from ...topics.client_options import SET_BY_ANABRANCH
from ...topics.errors import Usage
from ...topics.packed_limits import PackedLimits

__all__ = ["BOUNDED", "EngineSettings", "PackedLimits", "check_number"]

# Least and greatest value of each number. librdkafka has more limits, and refuses what exceeds them.
_NUMBERS: Mapping[str, tuple[type, float, float]] = {
    "epoch_s": (Real, 0, inf),
    "commit_share": (Real, 0, 1),
    "batch_records": (Integral, 1, inf),
    "batch_s": (Real, 0, inf),
    "backlog_records": (Integral, 1, inf),
    "align_s": (Real, 0, inf),
    "max_outputs": (Integral, 1, inf),
    "epoch_bytes": (Integral, 1, inf),
    "session_timeout_ms": (Integral, 0, inf),
    "max_poll_interval_ms": (Integral, 0, inf),
    "connect_s": (Real, 0, inf),
    "patience_s": (Real, 0, inf),
    "max_failure_share": (Real, 0, 1),
    "ready_lag_records": (Integral, 0, inf),
    "standby_replicas": (Integral, 0, inf),
    "stuck_s": (Real, 0, inf),
}
_WITHOUT_NUMBER = frozenset({"align_s", "ready_lag_records"})
_SWITCHES = ("exactly_once", "commit_beside", "notice_ends", "start_at_end")
_PROTOCOLS = ("classic", "consumer")
# Tables of one topic work with any assignor; `rebalance.py` refuses the others for topics that share a table.
_CHOSEN_BY_PROGRAMS = frozenset({"partition.assignment.strategy"})


def check_number(name: str, value: object, called: str | None = None) -> None:
    """Check the value of a setting that is a number.

    Args:
        name: the setting of `EngineSettings`.
        called: the name under which the user knows it, if it is another one.

    Raises:
        Usage: it is not a number, or too small or too large; the message says what is expected.
    """
    kind, least, most = _NUMBERS[name]
    if value is None and name in _WITHOUT_NUMBER:
        return
    if isinstance(value, kind) and not isinstance(value, bool):
        number = float(cast("float", value))
        if not isnan(number) and least <= number <= most:
            return
    limits = f"from {least} to {most}" if most < inf else f"of at least {least}"
    whole = "a whole number" if kind is Integral else "a number"
    none = ", or None" if name in _WITHOUT_NUMBER else ""
    raise Usage(f"{called or name}={value!r}: expected {whole} {limits}{none}")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the loop polls and commits.

    Attributes:
        exactly_once: whether each epoch is one Kafka transaction. False produces records and commits offsets without
            transactions (at least once).
        epoch_s: maximum duration of an epoch in seconds. In a bounded run, nobody waits for results while there is
            history to read, so `BOUNDED` has longer epochs, unless the app sets its own. Longer epochs cost less: the
            cost of a commit grows with the keys that the epoch touched, and the cost of reading the result with the
            keys of all commits.
        commit_beside: whether agents fill the next epoch while Kafka commits one; see `commits.py`. False makes them
            wait for each commit, which costs more the longer the brokers take to answer.
        commit_share: share of the time that commits may take while no records wait, so that epochs end early. Three
            quarters make the latency about twice the duration of a commit (150 commits a second on one machine). A
            smaller share reduces the load on a broker that many workers share.
        batch_records: maximum number of records per poll. Larger polls cost less per record. The loop polls fewer
            records if agents are slow, so that the records of one poll take `batch_s`.
        batch_s: how long the records of one poll should keep the agents busy, in seconds.
        backlog_records: the loop does not poll while the record queues hold this many records or more.
        align_s: agents see the records of the app's topics in the order of their timestamps: those of one topic wait
            for earlier ones of the others, at most so long, in seconds. It makes the order likely, and no more: records
            that come later than that are not waited for. None: no record waits. A bounded run with `--time` aligns its
            inputs itself.
        max_ahead_windows: how far a source partition may be ahead of the slowest one that this worker reads, in event
            time, where records of both meet in windows: so many lengths of a window, its grace included. Its records
            wait beyond that, so that not too many windows are open at once. More than 0; None: no record waits.
        max_outputs: maximum number of outputs in an epoch; the epoch is committed when it has reached it.
        epoch_bytes: approximate memory that the records of an epoch may take before the epoch is committed. They are
            kept in memory for a rollback, as are those of the epoch that is being committed meanwhile.
        group_protocol: `classic`, or `consumer` (KIP-848). With `consumer`, a rebalance does not interrupt partitions
            that do not move, and the broker sets the session timeout. All members of a group need the same protocol.
        session_timeout_ms: the partitions of a dead worker move after this time, unless it restarts with its identity.
        max_poll_interval_ms: librdkafka's `max.poll.interval.ms`: a worker that does not poll for longer leaves the
            group.
        notice_ends: detect the ends of partitions, for a bounded run that states where its history ends.
        start_at_end: a group without committed offsets begins at the current ends of its topics instead of their
            beginnings. Partitions that are added later are read from their beginnings.
        connect_s: how long a worker that starts waits for a broker to answer, in seconds.
        patience_s: how long a running worker waits for a broker that is unreachable before it stops with an error, in
            seconds.
        max_failure_share: the failure rate limit. The worker stops if more than this share of an agent's records of the
            last minute became dead letters or were skipped, and at least 1,000 of them did; 1 disables the limit.
        ready_lag_records: `/readyz` fails while the lag of this worker is larger; None ignores the lag. Agents process
            100,000 records within seconds.
        standby_replicas: number of other workers that keep a standby copy of the tables of each partition.
        stuck_s: how long agents may take to end at a record boundary or to be cancelled when the worker has to stop or
            to roll back, in seconds.
        consumer_options: librdkafka options of the worker's consumer, with dotted names. They override the options that
            the engine sets, except those that results rest on, which are refused; the option `-X` overrides both.
        producer_options: librdkafka options of the worker's producers, with the same precedence.
        packed: limits of the packed batches that are opened; larger batches become dead letters. None takes the limits
            from the environment (`ANABRANCH_PACKED_ROWS`, …), or else the defaults of `PackedLimits`.
        forwarded_headers: headers of a client's request, such as `Authorization`, to forward to the worker that has the
            requested key. A header that carries secrets is forwarded only if it is named here.

    Raises:
        Usage: a value is of another type, or outside of its limits, or an option of librdkafka's is one that the engine
            sets itself.
    """

    exactly_once: bool = True
    epoch_s: float = 0.1
    commit_beside: bool = True
    commit_share: float = 0.75
    batch_records: int = 20_000
    batch_s: float = 0.05
    backlog_records: int = 200_000
    align_s: float | None = None
    max_ahead_windows: float | None = 20.0
    max_outputs: int = 100_000
    epoch_bytes: int = 32_000_000
    group_protocol: Literal["classic", "consumer"] = "classic"
    session_timeout_ms: int = 10_000
    max_poll_interval_ms: int = 300_000
    notice_ends: bool = False
    start_at_end: bool = False
    connect_s: float = 5.0
    patience_s: float = 120.0
    max_failure_share: float = 0.5
    ready_lag_records: int | None = 100_000
    standby_replicas: int = 0
    stuck_s: float = 30.0
    consumer_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    producer_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    packed: PackedLimits | None = None
    forwarded_headers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            check_number(name, getattr(self, name))
        for name in _SWITCHES:
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise Usage(f"{name}={value!r}: expected True or False")
        if self.group_protocol not in _PROTOCOLS:
            raise Usage(f"group_protocol={self.group_protocol!r}: expected {' or '.join(_PROTOCOLS)}")
        if isinstance(self.forwarded_headers, str):
            raise Usage(
                f"forwarded_headers={self.forwarded_headers!r}: expected a tuple of names",
                hint=f"forwarded_headers=({self.forwarded_headers!r},)",
            )
        for what, options in (("consumer_options", self.consumer_options), ("producer_options", self.producer_options)):
            for name in options.keys() & SET_BY_ANABRANCH.keys() - _CHOSEN_BY_PROGRAMS:
                raise Usage(f"{what}: anabranch sets {name} itself", hint=SET_BY_ANABRANCH[name] or "omit it")
        lengths = cast("object", self.max_ahead_windows)
        if lengths is not None and not (isinstance(lengths, (int, float)) and 0 < lengths < inf):
            raise Usage(
                f"max_ahead_windows={lengths!r}: expected a number of lengths above 0",
                hint="max_ahead_windows=None: no partition is held back",
            )

    @property
    def assignor_option(self) -> str:
        """librdkafka's name of the option that chooses the assignor."""
        return "group.remote.assignor" if self.group_protocol == "consumer" else "partition.assignment.strategy"

    @property
    def guarantee(self) -> str:
        """The processing guarantee in words: `exactly once` or `at least once`."""
        return "exactly once" if self.exactly_once else "at least once"

    def membership(self, instance: str) -> dict[str, Any]:
        """Return librdkafka's settings for a member of the group, with `_` for `.` in their names.

        Args:
            instance: name of the worker in the group.

        Raises:
            Usage: the program sets a `client.id`, which must be the worker's own with KIP-848's protocol.
        """
        if self.group_protocol == "consumer":
            # No static id: a killed member still holds it, and librdkafka treats the refusal as a fatal error.
            if "client.id" in self.consumer_options:
                raise Usage(
                    "broker_client_id, or a client.id of the consumer, with group_protocol=consumer",
                    hint="anabranch sets it to the identity of each worker: omit it",
                )
            return {"group_protocol": "consumer", "group_remote_assignor": "range", "client_id": instance}
        return {
            "group_instance_id": instance,
            "partition_assignment_strategy": "range",
            "session_timeout_ms": self.session_timeout_ms,
            "heartbeat_interval_ms": max(self.session_timeout_ms // 10, 300),
        }


BOUNDED = EngineSettings(epoch_s=5.0, epoch_bytes=64_000_000)
"""The settings of workers in a bounded run, where latency does not matter."""
