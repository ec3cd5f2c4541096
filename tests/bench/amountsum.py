"""The job of the bench of bounded runs: the sum of each key, as a flow that processes packed batches by column."""

from __future__ import annotations

import msgspec
from anabranch import App, col


class Amount(msgspec.Struct):
    """A row."""

    key: str
    amount: int


app = App("amounts")
amounts = app.topic("amounts", value_type=Amount, partitions=4)
totals = amounts.map(col("amount")).reduce(sum, "totals")
