"""Reads and writes files of lines, and collects the bad lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.source import Source, SourcePosition
from anabranch.replay.sources.source_record import BadLine, SourceRecord
from anabranch.topics.errors import AnabranchError, Usage


class Reading:
    """A source, what it has told so far, and where it stands."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.bad: list[BadLine] = []
        self.blank = 0
        self.position = source.begins

    @property
    def ended(self) -> bool:
        return self.source.ended

    def next(self) -> Sequence[SourceRecord]:
        batch = self.source.next_batch()
        self.bad += batch.bad
        self.blank += batch.blank
        self.position = batch.after
        return batch.records

    def rest(self) -> list[SourceRecord]:
        items: list[SourceRecord] = []
        while not self.ended:
            items += self.next()
        return items


def read(source: Source) -> list[SourceRecord]:
    return Reading(source).rest()


def read_file(
    path: Path, format: Format | None = None, position: SourcePosition | None = None
) -> tuple[list[SourceRecord], Reading]:
    source = Reading(find_history([str(path)], format or Format()).open(position))
    return source.rest(), source


def values(path: Path, format: Format | None = None) -> list[bytes | None]:
    return [item[1] for item in read_file(path, format)[0]]


def plain(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# ---- what cannot be read ----


def refusal(make: Callable[[], object], kind: type[AnabranchError] = Usage) -> str:
    with pytest.raises(kind) as caught:
        make()
    return str(caught.value)
