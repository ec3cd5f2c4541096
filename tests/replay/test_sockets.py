"""Sources that read lines from sockets end or reconnect."""

from __future__ import annotations

import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.source import Source
from anabranch.replay.sources.source_record import SourceRecord
from anabranch.topics.errors import Stop
from line_files import refusal


class Server:
    """Listens on loopback and serves each connection the next of the texts, then closes it, or resets it."""

    def __init__(self, *texts: list[bytes], resets: bool = False) -> None:
        self._resets = resets
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.spec = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._texts = texts
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for text in self._texts:
            connection, _ = self._listening.accept()
            with connection:
                for piece in text:
                    connection.sendall(piece)
                    time.sleep(0.02)  # so that it arrives as a piece
                if self._resets:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._listening.close()


def read_until(source: Source, count: int) -> list[SourceRecord]:
    items: list[SourceRecord] = []
    deadline = time.monotonic() + 10
    while len(items) < count and not source.ended:
        assert time.monotonic() < deadline
        items += source.next_batch().records or time.sleep(0.005) or []
    return items


def test_a_socket_ends_when_the_server_closes_it_and_its_last_line_counts() -> None:
    server = Server([b"a,1\nb", b",2\r\n", b"c,3"])
    history = find_history([server.spec], Format(key_before=","))
    assert not history.resumable
    source = history.open()
    assert [item[:2] for item in read_until(source, 99)] == [(b"a", b"a,1"), (b"b", b"b,2"), (b"c", b"c,3")]
    assert source.ended


def test_a_csv_column_of_a_socket_has_the_type_of_its_first_row() -> None:
    source = find_history([Server([b"x,1\ny,2\nz,n\n"]).spec], Format(kind="csv", columns=("a", "b"))).open()
    values: list[bytes | None] = []
    reasons: list[str] = []
    deadline = time.monotonic() + 10
    while not source.ended and time.monotonic() < deadline:
        batch = source.next_batch()
        values += [item[1] for item in batch.records]
        reasons += [line.reason for line in batch.bad]
    assert values == [b'{"a":"x","b":1}', b'{"a":"y","b":2}']
    assert len(reasons) == 1
    assert "--types b=text" in reasons[0]


def test_a_followed_socket_is_connected_to_again() -> None:
    server = Server([b"one\ntwo"], [b"three\n"])
    source = find_history([server.spec], Format(), follow=True).open()
    assert [item[1] for item in read_until(source, 3)] == [b"one", b"two", b"three"]
    assert not source.ended
    assert source.poll_again_s > 0
    source.close()


@pytest.mark.parametrize("spooled", [False, True])
def test_a_line_that_a_reset_cuts_off_is_no_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spooled: bool
) -> None:
    server = Server([b"a,1\nb,12"], [b"c,3\n"], resets=True)
    spool = str(tmp_path / "spool") if spooled else None
    source = find_history([server.spec], Format(), follow=True, spool=spool).open()
    assert [item[1] for item in read_until(source, 2)] == [b"a,1", b"c,3"]
    source.close()
    assert "removed an incomplete line of 4 bytes" in caplog.text
    assert not spooled or (tmp_path / "spool").read_bytes() == b"a,1\nc,3\n"


@pytest.mark.parametrize("spooled", [False, True])
def test_each_connection_may_begin_with_a_byte_order_mark(tmp_path: Path, spooled: bool) -> None:
    server = Server([b"\xef", b"\xbb\xbfa\nb"], [b"\xef\xbb\xbfc\n"], [b"\xef\xbb"])
    spool = str(tmp_path / "spool") if spooled else None
    source = find_history([server.spec], Format(encoding="utf-8"), follow=True, spool=spool).open()
    assert [item[1] for item in read_until(source, 3)] == [b"a", b"b", b"c"]
    source.close()


def test_a_socket_speaks_csv_and_json_too() -> None:
    source = find_history([Server([b'x,"1\n2"\n']).spec], Format(kind="csv", columns=("a", "b"), key="a")).open()
    assert read_until(source, 9) == [(b"x", b'{"a":"x","b":"1\\n2"}', 0, None, None)]
    source = find_history([Server([b'{"a":1}\n']).spec], Format(kind="jsonl", key="a")).open()
    assert read_until(source, 9) == [(b"1", b'{"a":1}', 0, None, None)]


def test_a_socket_nobody_listens_at_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        spec = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    assert "nc -lk" in refusal(lambda: find_history([spec], Format()).open(), Stop)
    assert "tcp://host:port" in refusal(lambda: find_history(["tcp://nowhere"], Format()))
    assert "cannot be combined" in refusal(lambda: find_history([spec, __file__], Format()))
