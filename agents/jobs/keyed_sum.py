"""Sums numbers by key: lines `key,int` are parsed and added up in a table.

The same agent processes a file and the live topic:

    anabranch run anabranch.agents.jobs.keyed_sum --input data.txt --key-before , --output result.txt
    anabranch -A anabranch.agents.jobs.keyed_sum worker

A line in another form goes to the dead-letter topic, with the reason.
"""

from __future__ import annotations

from ..app import App
from ..stream import Stream

app = App("keyed-sum")
lines = app.topic("lines", value_type=str, partitions=4)
totals = app.Table("totals", default=int, help="total by key")


def parse(line: str) -> tuple[str, int]:
    """Return the key and the number of a line.

    Raises:
        ValueError: the line is not `key,int`.

    >>> parse("apples, 3")
    ('apples', 3)
    """
    key, comma, number = line.partition(",")
    if not comma or not key:
        raise ValueError(f"expected key,int, not {line!r}")
    return key, int(number)


@app.agent(lines, name="total")
async def total(stream: Stream[str]) -> None:
    """Add the numbers up by key."""
    async for line in stream:
        key, number = parse(line)
        totals[key] += number
