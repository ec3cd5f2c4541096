"""Counts the words of a stream of lines.

A flow splits each line, brings equal words together, and counts them: each worker counts the words of its own lines
first, and sends one partial count for each word and commit.
"""

import re

from anabranch import App, Count

app = App("word-count")
lines = app.topic("lines", value_type=str, partitions=4)


def words(line: str) -> list[str]:
    return re.findall(r"\w+", line.lower())


counts = lines.flat_map(words).key_by(str).aggregate("counts", count=Count())
