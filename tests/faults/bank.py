"""The app under test: transfers between accounts, whose total must never change.

A transfer is two records of work on two partitions, with a topic of the app's own between them:

    transfers ─▶ withdraw: balance and journal of the source ─▶ deposits ─▶ deposit: those of the target ─▶ done

Journals (a list changed in place) show which half of which transfer was lost or counted twice.

With `BANK_WINDOWS`, transfers are counted in windows as well, behind `key_by` and where they are; `window_audit.py`
audits these.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import anabranch
import commit_points
import msgspec
from anabranch.agents.engine.settings import EngineSettings

__all__ = ["GAP_MS", "GRACE_MS", "MOST_BYTES", "OPENING", "SESSION_MS", "WINDOW_MS", "Transfer", "app", "time_of"]

OPENING = 1_000
SESSION_MS = 1_500
MAX_POLL_MS = 4_000
MOST_BYTES = 1_000_000  # of key and value: the default limit of a record's size

WINDOW_MS, GAP_MS, GRACE_MS = 5_000, 3_000, 2_000

commit_points.install()

NAME = os.environ.get("BANK", "bank")
app = anabranch.App(
    NAME,
    topic_partitions=4,
    topic_replication_factor=int(os.environ.get("BANK_REPLICAS", "1")),
    store=os.environ.get("BANK_STORE", "memory://"),
    # Connecting takes long on a busy machine.
    settings=EngineSettings(
        session_timeout_ms=SESSION_MS,
        max_poll_interval_ms=MAX_POLL_MS,
        connect_s=60.0,
        commit_beside=bool(os.environ.get("BANK_COMMIT_BESIDE")),
        group_protocol="consumer" if os.environ.get("BANK_PROTOCOL") == "consumer" else "classic",
    ),
)


class Transfer(msgspec.Struct, omit_defaults=True):
    """One transfer.

    Attributes:
        number: from 1.
        trouble: the agent that raises at the end of the record, or `grow`: `withdraw` makes it larger than a record may
            be; empty for none.
        awaits_s, blocks_s: how long `withdraw` sleeps, and blocks the event loop, when it first processes the record.
    """

    number: int
    source: str
    target: str
    amount: int
    trouble: str = ""
    awaits_s: float = 0.0
    blocks_s: float = 0.0
    padding: str = ""


transfers = app.topic(f"{NAME}-transfers", key_type=str, value_type=Transfer)
deposits = app.topic(f"{NAME}-deposits", key_type=str, value_type=Transfer)
done = app.topic(f"{NAME}-done", key_type=str, value_type=int)
balances = app.Table("balances", default=lambda: OPENING)
journals = app.Table("journals", default=list)


class Trouble(Exception):
    """Raised for a record that fails."""


@app.agent(transfers, name="withdraw")
async def withdraw(stream):
    async for transfer in stream:
        balances[transfer.source] -= transfer.amount
        journals[transfer.source].append(-transfer.number)
        if transfer.awaits_s or transfer.blocks_s:
            await delay_once(transfer)
        if transfer.trouble == "grow":
            transfer.padding *= 2
        await deposits.send(key=transfer.target, value=transfer)
        if transfer.trouble == "withdraw":
            raise Trouble(transfer.number)


@app.agent(deposits, name="deposit")
async def deposit(stream):
    async for transfer in stream:
        balances[transfer.target] += transfer.amount
        journals[transfer.target].append(transfer.number)
        await done.send(key=transfer.target, value=transfer.number)
        if transfer.trouble == "deposit":
            raise Trouble(transfer.number)


async def delay_once(transfer: Transfer) -> None:
    """Delay the record at its first processing only, so that it succeeds after the worker is restarted."""
    try:
        Path(os.environ["BANK_FOLDER"], f"delayed-{transfer.number}").touch(exist_ok=False)
    except FileExistsError:
        return
    await asyncio.sleep(transfer.awaits_s)
    time.sleep(transfer.blocks_s)


def time_of(transfer: Transfer) -> int:
    """Return the event time of a transfer in milliseconds: 37 ms after that of the one before, but some are out of
    order, and some of these late."""
    number = transfer.number
    return 1_790_000_000_000 + 37 * number - number * 31 % 5 * 400 - (30_000 if number * 7919 % 13 == 0 else 0)


def count_in_windows() -> None:
    """Count transfers by source, in windows behind a repartition topic, and in sessions where they are."""
    timed = transfers.flow(on_failure="skip").with_time(time_of, grace=GRACE_MS / 1000, max_jump=None, idle_after=None)
    counts = {"n": anabranch.Count(), "numbers": anabranch.Sum("number")}
    by_source = timed.key_by("source").window(anabranch.Tumbling(WINDOW_MS / 1000)).aggregate("by-source", **counts)
    by_source.final().to(app.topic(f"{NAME}-by-source-closed"))
    visits = timed.window(anabranch.Sessions(GAP_MS / 1000)).aggregate("visits", **counts)
    visits.final().to(app.topic(f"{NAME}-visits-closed"))


if os.environ.get("BANK_WINDOWS"):
    count_in_windows()
