"""The other job of the bench of bounded runs: miles flown to each destination, as a flow."""

from __future__ import annotations

import msgspec
from anabranch import App, col


class Flight(msgspec.Struct):
    """What is needed of a row."""

    dest: str
    distance: int


app = App("miles")
flights = app.topic("flights", value_type=Flight, partitions=4)
miles = flights.map(col("distance")).reduce(sum, "miles")
