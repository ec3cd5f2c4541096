"""A socket with a spool keeps the contract of sources: killed anywhere, it gives each received line once."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from anabranch.replay.pipeline.dry_run import perform_dry_run
from anabranch.replay.pipeline.pipeline import Pipeline
from anabranch.replay.sources.file_history import FileHistory, find_history
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.source import Source, SourcePosition
from anabranch.replay.sources.source_record import SourceRecord
from anabranch.topics.errors import Stop, Usage
from anabranch.topics.partitioners import HashPartitioner
from line_files import Reading

PARTS = [b"k,n\n\none,1\ntwo", b",2\r\nthree,3\xc3\xa9\n", b"four,4\nlast without an end"]
CASES = [
    pytest.param(PARTS, Format(), 7, id="text"),
    pytest.param([b'{"k":1}\n{"k"', b":2}\n\n", b'{"k":"x"}'], Format(kind="jsonl", key="k"), 3, id="jsonl"),
    pytest.param([b'a,x\nb,"two\nl', b'ines"\nc,3\n', b"d,4"], Format(kind="csv", columns=("k", "n")), 4, id="csv"),
    pytest.param([b"a,1\nb", b",2\n", b"c,3"], Format(kind="csv", columns=("k", "n")), 3, id="numbers in csv"),
]


@contextmanager
def serving(*connections: list[bytes], held: int = 0) -> Iterator[str]:
    """Serves each connection the next of the texts, piece by piece, and closes it; of the first `held` the peer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for number, pieces in enumerate(connections):
                connection, _ = listening.accept()
                with connection:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    for piece in pieces:
                        connection.sendall(piece)
                    if number < held:
                        connection.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"


def next_of(source: Reading) -> Sequence[SourceRecord]:
    """The next batch that is not empty, or nothing at the end."""
    deadline = time.monotonic() + 30
    while not source.ended:
        assert time.monotonic() < deadline
        if items := source.next():
            return items
        time.sleep(0.001)
    return []


def rest_of(source: Source) -> list[SourceRecord]:
    found: list[SourceRecord] = []
    reading = Reading(source)
    while items := next_of(reading):
        found += items
    source.close()
    return found


def spooled(spec: str, format: Format, folder: Path) -> FileHistory:
    history = find_history([spec], format, spool=str(folder / "spool"))
    assert history.resumable
    return history


def as_stored(position: SourcePosition) -> SourcePosition:
    return msgspec.json.decode(msgspec.json.encode(position), type=SourcePosition)


@pytest.mark.parametrize(("parts", "format", "count"), CASES)
def test_killed_anywhere_and_opened_at_its_snapshot_it_gives_the_rest(
    tmp_path: Path, parts: list[bytes], format: Format, count: int
) -> None:
    with serving(parts) as spec:
        history = spooled(spec, format, tmp_path)
        source = Reading(history.open(batch_lines=2))
        whole: list[SourceRecord] = []
        snapshots = [(0, as_stored(source.position))]
        while items := next_of(source):
            whole += items
            snapshots.append((len(whole), as_stored(source.position)))
        source.source.close()
    assert len(whole) == count
    assert (tmp_path / "spool").read_bytes() == b"".join(parts).removesuffix(b"\n") + b"\n"
    for given, position in snapshots:
        with serving([]) as spec:
            again = replace(history, specs=(spec,))
            assert whole[:given] + rest_of(again.open(position, batch_lines=1)) == whole


@pytest.mark.parametrize("committed", [True, False])
def test_what_was_received_is_given_first_then_what_comes(tmp_path: Path, committed: bool) -> None:
    # The first connection gives two lines and a half; then the process dies, with or without a commit.
    with serving([b"a\nb\nhal"], [b"c\n"], held=1) as spec:
        history = spooled(spec, Format(), tmp_path)
        source = Reading(history.open())
        assert [item[1] for item in next_of(source)] == [b"a", b"b"]
        position = as_stored(source.position) if committed else None
        source.source.close()
        with (tmp_path / "spool").open("ab") as file:
            file.write(b"torn by a power cut")
        source = Reading(history.open(position))
        if not committed:
            assert [item[1] for item in source.next()] == [b"a", b"b"]
            # Once nothing, so that this is committed before it turns out that nobody listens any more.
            assert list(source.next()) == []
            assert not source.ended
        assert [item[1] for item in rest_of(source.source)] == [b"c"]
    assert (tmp_path / "spool").read_bytes() == b"a\nb\nc\n"


def test_a_spool_that_is_another_or_in_use_is_refused(tmp_path: Path) -> None:
    with serving([b"a\nb\n"]) as spec:
        history = spooled(spec, Format(), tmp_path)
        source = Reading(history.open())
        next_of(source)
        position = source.position
        with pytest.raises(Stop, match="another process writes to it"):
            history.open()
        source.source.close()
    for other in (b"a\n", b"a\nB\nc\n"):
        (tmp_path / "spool").write_bytes(other)
        with pytest.raises(Stop, match="is not the spool"):
            history.open(position)
    with pytest.raises(Usage, match="only once"):
        perform_dry_run(history, Pipeline(), HashPartitioner(4))
    with pytest.raises(Usage, match="--loop"):
        Pipeline(rounds=2).checked(history)
    with pytest.raises(Usage, match="--spool"):
        find_history([__file__], Format(kind="text"), spool="x")
    with pytest.raises(Usage, match="Is a directory"):
        replace(history, spool=str(tmp_path)).open()
    assert history.identity("t") != find_history([spec], Format()).identity("t")
