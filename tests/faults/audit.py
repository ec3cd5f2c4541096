"""The auditor: computes the same transfers with a dozen dumb lines, and says what differs."""

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
from anabranch.topics.packed import Packed, is_packed
from bank import OPENING, Transfer
from confluent_kafka import Consumer, KafkaError, TopicPartition

__all__ = ["Truth", "audit", "plainly", "read"]

END_S = 20.0
_SHOWN = 6


@dataclass
class Truth:
    """What a reader must see in the end.

    Attributes:
        done: numbers of the transfers that go through.
        letters: values of the records that cannot, by topic; see `plainly`.
        journals: account -> the numbers of its transfers, negative where it is the source.
    """

    balances: Counter[str] = field(default_factory=Counter)
    journals: dict[str, list[int]] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)
    letters: dict[str, list[bytes]] = field(default_factory=lambda: {"transfers": [], "deposits": []})

    def add(self, value: bytes) -> None:
        """A record of the topic `transfers`."""
        try:
            transfer = msgspec.json.decode(value, type=Transfer)
        except msgspec.DecodeError:
            self.letters["transfers"].append(value)
            return
        if transfer.trouble in ("withdraw", "grow"):
            self.letters["transfers"].append(plainly(value))
            return
        self._book(transfer.source, -transfer.amount, -transfer.number)
        if transfer.trouble == "deposit":
            self.letters["deposits"].append(plainly(value))
            return
        self._book(transfer.target, transfer.amount, transfer.number)
        self.done.append(transfer.number)

    def _book(self, account: str, amount: int, number: int) -> None:
        self.balances[account] += amount
        self.journals.setdefault(account, []).append(number)


def plainly(value: bytes) -> bytes:
    """A record's value with all of its fields, as it is in files and in rows; what is no transfer stays as it is."""
    try:
        return msgspec.json.encode(msgspec.structs.asdict(msgspec.json.decode(value, type=Transfer)))
    except msgspec.DecodeError:
        return value


def audit(cluster: Cluster, name: str, sent: Truth, made: list[bytes], tables: str = "") -> list[str]:
    """What is wrong at the end of a round; nothing, if nothing is.

    Args:
        name: what its topics begin with.
        sent: of what was sent.
        made: the values that were sent.
        tables: what its changelogs begin with; the same unless given.
    """
    tables = tables or name
    found = [plainly(value) for message in read(cluster, f"{name}-transfers") for value in _values(message)]
    wrong = _compare("transfers", [plainly(value) for value in made], found)
    if wrong:
        return wrong
    wrong += _compare("done", sent.done, [int(m.value()) for m in read(cluster, f"{name}-done")])
    for topic, letters in sent.letters.items():
        wrong += _compare(f"{topic}.dlq", letters, [plainly(m.value()) for m in read(cluster, f"{name}-{topic}.dlq")])
    journals = _table(cluster, tables, "journals")
    for account in sorted(sent.journals.keys() | journals.keys()):
        wrong += _compare(f"journal of {account}", sent.journals.get(account, []), journals.get(account, []))
    balances = _table(cluster, tables, "balances")
    for account in sorted(sent.balances.keys() | balances.keys()):
        should, stands = OPENING + sent.balances[account], balances.get(account, OPENING)
        if should != stands:
            wrong.append(f"balance of {account}: {stands}, not {should}")
    total = sum(balances.values()) - OPENING * len(balances)
    if total:
        wrong.append(f"the total of all balances has changed by {total}")
    return wrong


def _values(message: Any) -> list[bytes]:
    return Packed(message.value()).values() if is_packed(message.headers()) else [message.value()]


def _compare(what: str, should: list[Any], stands: list[Any]) -> list[str]:
    if sorted(should) == sorted(stands):
        return []
    missing, extra = Counter(should) - Counter(stands), Counter(stands) - Counter(should)
    return [f"{what}: missing {_some(missing)}, too often {_some(extra)}"]


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
    """All committed records up to the end as it is when nothing is pending.

    Raises:
        AssertionError: a transaction stays open, so that no reader gets to the end.
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
    waiting = set(ends)
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
                yield message
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                if message.offset() >= ends[message.partition()]:
                    waiting.discard(message.partition())
    finally:
        consumer.close()
