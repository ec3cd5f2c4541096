"""The auditor: computes the transfers in plain Python and reports the differences from the topics and tables."""

from __future__ import annotations

import reprlib
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from anabranch.topics.admin import Admin
from anabranch.topics.cluster import Cluster
from anabranch.topics.control_records import carries_control, is_control
from anabranch.topics.packed import Packed, is_packed
from bank import OPENING, Transfer
from confluent_kafka import Consumer, KafkaError, TopicPartition

__all__ = ["Expected", "audit", "read", "values_of", "with_all_fields"]

END_S = 20.0
_SHOWN = 6


@dataclass
class Expected:
    """The expected results.

    Attributes:
        done: numbers of the transfers that complete.
        dead_letters: topic -> values of the records that fail, as `with_all_fields` returns them.
        journals: account -> the numbers of its transfers, negative where it is the source.
    """

    balances: Counter[str] = field(default_factory=Counter)
    journals: dict[str, list[int]] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)
    dead_letters: dict[str, list[bytes]] = field(default_factory=lambda: {"transfers": [], "deposits": []})

    def add(self, value: bytes) -> None:
        """Add the effects of a record of the topic `transfers`."""
        try:
            transfer = msgspec.json.decode(value, type=Transfer)
        except msgspec.DecodeError:
            self.dead_letters["transfers"].append(value)
            return
        if transfer.trouble in ("withdraw", "grow"):
            self.dead_letters["transfers"].append(with_all_fields(value))
            return
        self._book(transfer.source, -transfer.amount, -transfer.number)
        if transfer.trouble == "deposit":
            self.dead_letters["deposits"].append(with_all_fields(value))
            return
        self._book(transfer.target, transfer.amount, transfer.number)
        self.done.append(transfer.number)

    def _book(self, account: str, amount: int, number: int) -> None:
        self.balances[account] += amount
        self.journals.setdefault(account, []).append(number)


def with_all_fields(value: bytes) -> bytes:
    """Return a transfer's JSON with all fields, as in files and packed rows; other values stay unchanged."""
    try:
        return msgspec.json.encode(msgspec.structs.asdict(msgspec.json.decode(value, type=Transfer)))
    except msgspec.DecodeError:
        return value


def audit(cluster: Cluster, name: str, expected: Expected, produced: list[bytes], tables: str = "") -> list[str]:
    """Return the differences between the expected results and the topics; an empty list if there are none.

    Args:
        name: prefix of the topics.
        expected: the expected results.
        produced: the values of the records in the topic `transfers`.
        tables: prefix of the changelogs; `name` by default.
    """
    tables = tables or name
    found = [with_all_fields(value) for message in read(cluster, f"{name}-transfers") for value in values_of(message)]
    wrong = _compare("transfers", [with_all_fields(value) for value in produced], found)
    if wrong:
        return wrong
    wrong += _compare("done", expected.done, [int(m.value()) for m in read(cluster, f"{name}-done")])
    for topic, dead_letters in expected.dead_letters.items():
        wrong += _compare(
            f"{topic}.dlq", dead_letters, [with_all_fields(m.value()) for m in read(cluster, f"{name}-{topic}.dlq")]
        )
    journals = _table(cluster, tables, "journals")
    for account in sorted(expected.journals.keys() | journals.keys()):
        wrong += _compare(f"journal of {account}", expected.journals.get(account, []), journals.get(account, []))
    balances = _table(cluster, tables, "balances")
    for account in sorted(expected.balances.keys() | balances.keys()):
        wanted, actual = OPENING + expected.balances[account], balances.get(account, OPENING)
        if wanted != actual:
            wrong.append(f"balance of {account}: {actual}, not {wanted}")
    total = sum(balances.values()) - OPENING * len(balances)
    if total:
        wrong.append(f"the total of all balances has changed by {total}")
    return wrong


def values_of(message: Any) -> list[bytes]:
    """Return the values of a record: of each row, if it is a packed batch."""
    return Packed(message.value()).values() if is_packed(message.headers()) else [message.value()]


def _compare(what: str, wanted: list[Any], actual: list[Any]) -> list[str]:
    if sorted(wanted) == sorted(actual):
        return []
    missing, extra = Counter(wanted) - Counter(actual), Counter(actual) - Counter(wanted)
    return [f"{what}: missing {_some(missing)}, duplicated {_some(extra)}"]


def _some(of: Counter[Any]) -> str:
    more = f" and {len(of) - _SHOWN} others" if len(of) > _SHOWN else ""
    return f"{[reprlib.repr(one) for one in sorted(of.elements())[:_SHOWN]]}{more}" if of else "none"


def _table(cluster: Cluster, name: str, table: str) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for message in read(cluster, f"{name}-{table}-changelog"):
        key = msgspec.json.decode(message.key())
        if message.value() is None:
            rows.pop(key, None)
        else:
            rows[key] = msgspec.json.decode(message.value())
    return rows


def read(cluster: Cluster, topic: str) -> Iterator[Any]:
    """Yield all committed records up to the end of the topic, without control records.

    Raises:
        AssertionError: a transaction stays open, so that no reader reaches the end.
    """
    consumer = Consumer(
        cluster.config(
            group_id=f"audit-{uuid.uuid4().hex}",
            enable_auto_commit=False,
            enable_partition_eof=True,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_wait_max_ms=5,
        )
    )
    admin = Admin(cluster)
    partitions = [TopicPartition(topic, p, 0) for p in range(admin.partitions([topic]).get(topic, 0))]
    ends = {partition: end for (_, partition), end in admin.ends(partitions).items()}
    waiting, own = set(ends), carries_control(topic)
    try:
        consumer.assign(partitions)
        idle_s = 0.0
        while waiting:
            message = consumer.poll(0.2)
            if message is None:
                idle_s += 0.2
                assert idle_s < END_S, f"{topic} partitions {waiting}: a transaction is left open"
                continue
            if message.error() is None:
                if not (own and is_control(message)):
                    yield message
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                if message.offset() >= ends[message.partition()]:
                    waiting.discard(message.partition())
    finally:
        consumer.close()
