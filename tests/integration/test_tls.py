"""All commands work on a cluster with TLS and a password, and no secret is printed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from anabranch.topics.devbroker.broker import EmbeddedBroker
from cryptography.hazmat.primitives import serialization
from fork_server import ForkServer

PASSWORD = "correct-horse-9f3a"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


class Secured:
    """A broker with a listener for clients that speak TLS and know a password."""

    def __init__(self, folder: Path, port: int, forks: ForkServer) -> None:
        self.folder, self.servers, self._forks = folder, f"127.0.0.1:{port}", forks
        self.ca = str(folder / "ca.pem")

    def anabranch(self, *arguments: str, **options: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("KAFKA_", "ANABRANCH_"))}
        environment |= {"KAFKA_SASL_PASSWORD": PASSWORD}
        chosen = {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": self.ca,
            "sasl.mechanisms": "PLAIN",
            "sasl.username": "ann",
            **{name.replace("_", "."): value for name, value in options.items()},
        }
        more = [word for name, value in chosen.items() for word in ("-X", f"{name}={value}")]
        return subprocess.Popen(
            [str(self._forks.program), *arguments, "-b", self.servers, *more],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def said(self, *arguments: str, **options: str) -> tuple[int, str]:
        process = self.anabranch(*arguments, **options)
        said, _ = process.communicate(timeout=150)
        assert PASSWORD not in said
        return process.returncode, said


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "stranger.pem"))
    issued = authority.issue_cert("127.0.0.1", "localhost")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)  # Kafka reads PKCS 8 only
    written = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(written + b"".join(part.bytes() for part in issued.cert_chain_pems))

    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    client, controller, secure = (each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    settings = {
        "listeners": f"CLIENT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller},SECURE://127.0.0.1:{secure}",
        "advertised.listeners": f"CLIENT://127.0.0.1:{client},SECURE://127.0.0.1:{secure}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.secure.plain.sasl.jaas.config": f'{PLAIN} user_ann="{PASSWORD}";',
        "listener.name.secure.ssl.keystore.type": "PEM",
        "listener.name.secure.ssl.keystore.location": str(folder / "server.pem"),
    }
    with EmbeddedBroker(port=client, settings=settings):
        yield Secured(folder, secure, forks)


def test_all_of_it_works_over_tls_with_a_password(secured: Secured, eventually) -> None:
    (secured.folder / "data.txt").write_text("a,1\nb,2\na,3\n")
    job = "anabranch.agents.jobs.keyed_sum"

    code, said = secured.said(
        "run", job, "--input", "data.txt", "--key-before", ",", "--output", "result.txt", "-l", "debug"
    )
    assert code == 0, said
    assert (secured.folder / "result.txt").read_text() == "a,4\nb,2\n"

    code, said = secured.said("replay", "data.txt", "--to", "lines", "--key-before", ",", "-l", "debug")
    assert code == 0, said
    worker = secured.anabranch("-A", job, "worker", "-l", "debug", "--without-web", "--datadir", "data")
    try:
        eventually(
            lambda: '{"key":"a","value":4}' in secured.said("-A", job, "tables", "totals", "--json")[1], "totals"
        )
    finally:
        worker.send_signal(signal.SIGTERM)
        said, _ = worker.communicate(timeout=150)
    assert worker.returncode == 0, said
    assert PASSWORD not in said


def test_what_is_wrong_is_said(secured: Secured) -> None:
    replay = ("replay", "data.txt", "--to", "elsewhere", "--key-before", ",")
    (secured.folder / "data.txt").write_text("a,1\n")
    for options, says in (
        ({"sasl_password": "wrong"}, "Authentication failed"),
        ({"ssl_ca_location": str(secured.folder / "stranger.pem")}, "certificate verify failed"),
        ({"security_protocol": "PLAINTEXT"}, "security.protocol"),
    ):
        code, said = secured.said(*replay, **options)
        assert code == 1, said
        assert says in said, said
        assert "Traceback" not in said
