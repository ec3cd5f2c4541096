"""Runs commands in forks of a process that has imported Faust and the clients already.

A command takes 0.5 to 0.9 s of processor time, nearly all of it for imports, and the tests run some hundreds. A fork of
this process has the packages of others and `anabranch.agents`; it imports what is left of `python -m anabranch` itself,
with the folder, environment, arguments and files of its command, and ends as the interpreter does. `Shell.start` starts
real processes.

As a program, with the path of an interpreter and the descriptors of two sockets as its arguments, it is the server;
`ForkServer` is its client. Each connection asks for one command: a request in JSON with standard input, output and
error beside it; the answers are the process id, then the wait status. A connection that is closed before kills its
command. The second socket is the server's leash: it ends with its client.

`ForkServer.program` is a program that asks for one: a shell runs it as `anabranch`. Another one is `sys.executable` in
the forks, so that the workers that a command starts are forks, too.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

PRELOADED = ("anabranch.agents", "anabranch.topics.admin", "click", "rich.console", "rich.table", "rich.progress")
_MOST_BYTES = 1 << 20

# Asks for its command, passes signals on to it, and ends as it does.
_COMMAND = """#!{python} -IS
import json, os, signal, socket, sys
channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
channel.connect({path!r})
request = {{"arguments": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}
# Until the process is known, signals wait.
passed = {{signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1}}
signal.pthread_sigmask(signal.SIG_BLOCK, passed)
socket.send_fds(channel, [json.dumps(request).encode()], [0, 1, 2])
pid = int(channel.recv(64))
for number in passed:
    signal.signal(number, lambda number, _: os.kill(pid, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
code = os.waitstatus_to_exitcode(int(channel.recv(64)))
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""

# Stands for the interpreter in a fork: `python -m anabranch …` is another fork, anything else, and a command with
# another hash seed than the server's, a real interpreter.
_INTERPRETER = """#!{python} -IS
import os, sys
if sys.argv[1:3] != ["-m", "anabranch"] or os.environ.get("PYTHONHASHSEED", {seed!r}) != {seed!r}:
    os.execv({executable!r}, [{executable!r}, *sys.argv[1:]])
del sys.argv[1:3]
"""


class ForkServer:
    """Runs commands, several at a time if need be.

    Attributes:
        program: `anabranch` as a program, alone in its folder; SIGKILL of it kills its fork a little later.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="anabranch-forks-")
        self._path = str(Path(self._folder.name) / "socket")
        self.program = Path(self._folder.name) / "bin" / "anabranch"
        interpreter = Path(self._folder.name) / "python"  # not in a folder of the commands' PATH
        python = Path(sys.executable).resolve()
        seed = os.environ.get("PYTHONHASHSEED")
        command = _COMMAND.format(python=python, path=self._path)
        texts = {
            self.program: command,
            interpreter: _INTERPRETER.format(python=python, executable=sys.executable, seed=seed) + command,
        }
        self.program.parent.mkdir()
        for program, text in texts.items():
            program.write_text(text)
            program.chmod(0o755)
        self._leash, theirs = socket.socketpair()
        with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self._path)
            listener.listen()
            given = [listener.fileno(), theirs.fileno()]
            command = [sys.executable, __file__, str(interpreter), *map(str, given)]
            self._process = subprocess.Popen(command, pass_fds=given, stdin=subprocess.DEVNULL)

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
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel,
            TemporaryFile() as out,
            TemporaryFile() as err,
        ):
            files = [0 if stdin is None else stdin.fileno(), out.fileno(), err.fileno()]
            channel.settimeout(60)
            channel.connect(self._path)
            socket.send_fds(channel, [request], files)
            pid = int(channel.recv(64))
            channel.settimeout(timeout_s)
            try:
                status = int(channel.recv(64))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                channel.settimeout(60)
                channel.recv(64)
                raise subprocess.TimeoutExpired(command, timeout_s, _read(out), _read(err)) from None
            code = os.waitstatus_to_exitcode(status)
            return subprocess.CompletedProcess(command, code, _read(out).decode(), _read(err).decode())

    def close(self) -> None:
        """End the server."""
        self._leash.close()
        self._process.wait(60)
        self._folder.cleanup()


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _serve(listener: socket.socket, leash: socket.socket) -> dict[str, Any] | None:
    """Fork for each request; return the request in the fork, and None in the server once its client is gone."""
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(tell)
    waiting = selectors.DefaultSelector()
    for fd in (listener.fileno(), leash.fileno(), told):
        waiting.register(fd, selectors.EVENT_READ)
    clients: dict[int, tuple[socket.socket, int]] = {}  # descriptor -> connection, process
    while True:
        for key, _ in waiting.select()[:1]:  # what it changes may concern the next event
            if key.fd == leash.fileno():
                return None
            if key.fd == told:
                os.read(told, 4096)
                _report_ended(waiting, clients)
            elif key.fd == listener.fileno():
                channel, _ = listener.accept()
                request, files, _, _ = socket.recv_fds(channel, _MOST_BYTES, 3)
                if not request:
                    channel.close()
                    continue
                pid = os.fork()
                if not pid:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    waiting.close()
                    for other in (listener, leash, channel, *(one for one, _ in clients.values())):
                        other.close()
                    for number in (told, tell):
                        os.close(number)
                    for number, file in enumerate(files):
                        os.dup2(file, number)
                        os.close(file)
                    return json.loads(request)
                for file in files:
                    os.close(file)
                clients[channel.fileno()] = channel, pid
                waiting.register(channel, selectors.EVENT_READ)
                _tell(channel, pid)
            elif key.fd in clients:
                channel, pid = clients.pop(key.fd)  # it is gone, for it has no more to say
                waiting.unregister(channel)
                channel.close()
                os.kill(pid, signal.SIGKILL)


def _report_ended(waiting: selectors.BaseSelector, clients: dict[int, tuple[socket.socket, int]]) -> None:
    """Report the processes that have ended to who asked for them."""
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            for fd, (channel, its) in [*clients.items()]:
                if its == pid:
                    del clients[fd]
                    waiting.unregister(channel)
                    _tell(channel, status)
                    channel.close()


def _tell(channel: socket.socket, number: int) -> None:
    with suppress(OSError):  # its client is gone
        channel.send(b"%d" % number)


def main() -> None:
    """Serve; in a fork, be the command."""
    interpreter, *given = sys.argv[1:]
    listener, leash = (socket.socket(fileno=int(number)) for number in given)
    del sys.path[0]
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its client
    request = _serve(listener, leash)
    if request is None:
        return
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path.insert(0, request["cwd"])
    importlib.invalidate_caches()
    sys.executable = interpreter
    sys.argv = ["anabranch", *request["arguments"]]
    runpy.run_module("anabranch", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
