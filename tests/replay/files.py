"""Files written and read by the line, and what is said of those that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.history import find_history
from anabranch.replay.sources.item import Item
from anabranch.replay.sources.source import Position, Source
from anabranch.topics.errors import AnabranchError, Usage


def read(source: Source) -> list[Item]:
    items: list[Item] = []
    while not source.ended:
        items += source.next_batch()
    return items


def read_file(path: Path, format: Format | None = None, position: Position | None = None) -> tuple[list[Item], Source]:
    source = find_history([str(path)], format or Format()).open(position)
    return read(source), source


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
