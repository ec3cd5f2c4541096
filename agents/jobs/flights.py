"""A year of flights by carrier, with the airline's name looked up in a table that a file has filled.

    anabranch run anabranch.agents.jobs.flights --key carrier --time flights=time_hour --null NA \\
        --input airlines=airlines.csv --then flights=flights.csv.zip --output carriers.csv

Both topics are keyed by carrier and have the same number of partitions, so an airline and its flights reach the same
worker, and a look-up is a local read.
"""

from __future__ import annotations

import msgspec

from ..app import App
from ..stream import Stream

PARTITIONS = 4

app = App("flights", topic_partitions=PARTITIONS)


class Airline(msgspec.Struct):
    """A row of airlines.csv."""

    carrier: str
    name: str


class Flight(msgspec.Struct):
    """The fields of flights.csv that are used; a cancelled flight has no departure time."""

    carrier: str
    dep_time: int | None = None
    dep_delay: float | None = None


class Carrier(msgspec.Struct):
    """The result for a carrier; delays are in minutes, negative for early departures."""

    name: str = ""
    flights: int = 0
    cancelled: int = 0
    departed: int = 0
    delay_min: float = 0.0
    mean_delay_min: float | None = None


airlines = app.topic("airlines", value_type=Airline, partitions=PARTITIONS)
flights = app.topic("flights", value_type=Flight, partitions=PARTITIONS)
names = app.Table("names", value_type=str, help="airline name by carrier")
carriers = app.Table("carriers", default=Carrier, help="flights, delays and cancellations by carrier")


@app.agent(airlines, name="learn-names")
async def learn_names(stream: Stream[Airline]) -> None:
    """Fill the table of airline names."""
    async for airline in stream:
        names[airline.carrier] = airline.name


@app.agent(flights, name="count-flights")
async def count_flights(stream: Stream[Flight]) -> None:
    """Count flights and cancellations and compute the mean departure delay, by carrier."""
    async for flight in stream:
        carrier = carriers[flight.carrier]
        carrier.name = names.get(flight.carrier, "")
        carrier.flights += 1
        if flight.dep_time is None:
            carrier.cancelled += 1
        if flight.dep_delay is not None:
            carrier.departed += 1
            carrier.delay_min += flight.dep_delay
            carrier.mean_delay_min = round(carrier.delay_min / carrier.departed, 2)
