"""Runs commands in forks of a process that has imported Faust and the clients already.

A command takes 0.5 to 0.9 s of processor time, nearly all of it for imports, and the tests run some hundreds. A fork of
this process has the packages of others and `anabranch.agents`; it imports what is left of `python -m anabranch` itself,
with the folder, environment, arguments and files of its command, and ends as the interpreter does. `Shell.start` starts
real processes.

As a program, with the descriptor of a socket as its argument, it is the server; `ForkServer` is its client. A request
is JSON with standard input, output and error beside it; the answers are the process id, then the wait status.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

PRELOADED = ("anabranch.agents", "anabranch.topics.admin", "click", "rich.console", "rich.table", "rich.progress")
_MOST_BYTES = 1 << 20


class ForkServer:
    """Runs one command at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()

    def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        timeout_s: float,
        stdin: IO[str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `anabranch` with these arguments, as `subprocess.run` would.

        Raises:
            subprocess.TimeoutExpired: it was killed after `timeout_s`.
        """
        command = [sys.executable, "-m", "anabranch", *arguments]
        request = json.dumps({"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}).encode()
        assert len(request) < _MOST_BYTES
        with self._lock, TemporaryFile() as out, TemporaryFile() as err:
            files = [0 if stdin is None else stdin.fileno(), out.fileno(), err.fileno()]
            self._channel.settimeout(60)
            socket.send_fds(self._channel, [request], files)
            pid = int(self._channel.recv(64))
            self._channel.settimeout(timeout_s)
            try:
                status = int(self._channel.recv(64))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._channel.settimeout(60)
                self._channel.recv(64)
                raise subprocess.TimeoutExpired(command, timeout_s, _read(out), _read(err)) from None
            code = os.waitstatus_to_exitcode(status)
            return subprocess.CompletedProcess(command, code, _read(out).decode(), _read(err).decode())

    def close(self) -> None:
        """End the server."""
        self._channel.close()
        self._process.wait(60)


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _serve(channel: socket.socket) -> dict[str, Any] | None:
    """Fork for each request; return the request in the fork, and None in the server once its client is gone."""
    while True:
        request, files, _, _ = socket.recv_fds(channel, _MOST_BYTES, 3)
        if not request:
            return None
        pid = os.fork()
        if not pid:
            channel.close()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            return json.loads(request)
        for file in files:
            os.close(file)
        channel.send(b"%d" % pid)
        channel.send(b"%d" % os.waitpid(pid, 0)[1])


def main() -> None:
    """Serve; in a fork, be the command."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    del sys.path[0]
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its client
    request = _serve(channel)
    if request is None:
        return
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path.insert(0, request["cwd"])
    importlib.invalidate_caches()
    sys.argv = ["anabranch", *request["arguments"]]
    runpy.run_module("anabranch", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
