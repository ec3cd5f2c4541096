"""The broker that runs on a data folder, as other processes find it: its address, its processes, its clients.

`broker.json` names the processes. It counts only while a process holds the folder's lock and both processes live, so a
file that a killed process left behind misleads nobody.
"""

from __future__ import annotations

import fcntl
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..durable_files import replace_file
from ..running_process import is_running

__all__ = ["RunningBroker", "is_occupied", "last_port", "running_at"]

_FILE = "broker.json"
_LOOPBACK = "0100007F"  # the end of 127.0.0.1 and of ::ffff:127.0.0.1 in /proc/net/tcp and tcp6
_ESTABLISHED = "01"
_LISTENER = re.compile(r"^listeners=CLIENT://[^:]+:(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A broker that runs.

    Attributes:
        data: its folder.
        servers: its bootstrap servers, `127.0.0.1:port`.
        pid: the process id of Java.
        owner: the process id of its parent, which ends it.
        background: it serves all commands of its folder and ends when it is not used; else its parent decides.
        kafka: version of Kafka.
        started_ms: when it started, in milliseconds since 1970.
        folder: inode of the folder's lock, by which it is told from a later folder of the same name.
    """

    data: Path
    servers: str
    pid: int
    owner: int
    background: bool
    kafka: str
    started_ms: int
    folder: int

    def write(self) -> None:
        """Write `broker.json`; the caller holds the folder's lock."""
        facts = {name: value for name, value in asdict(self).items() if name not in ("data", "folder")}
        replace_file(self.data / _FILE, json.dumps(facts).encode() + b"\n")

    @staticmethod
    def remove(data: Path) -> None:
        """Remove `broker.json`; the caller holds the folder's lock."""
        (data / _FILE).unlink(missing_ok=True)

    @property
    def lives(self) -> bool:
        """True while both of its processes run."""
        return is_running(self.pid) and is_running(self.owner)

    @property
    def is_folder_gone(self) -> bool:
        """True if its folder has been deleted, even if another one has its name now."""
        return self.folder != _identity(self.data)

    def clients(self) -> int | None:
        """Return the number of connections from other processes; None where the system does not list them."""
        try:
            own = _sockets(self.pid)
            port = f":{int(self.servers.rpartition(':')[2]):04X}"
            return sum(
                remote.endswith(f"{_LOOPBACK}{port}") and state == _ESTABLISHED and inode not in own
                for remote, state, inode in _connections()
            )
        except OSError:
            return None


def running_at(data: Path) -> RunningBroker | None:
    """Return the broker that runs on `data`, whichever process has started it; None if there is none."""
    if not is_occupied(data):
        return None
    identity = _identity(data)
    try:
        facts: dict[str, Any] = json.loads((data / _FILE).read_text())
        # Another version of this program may have written more facts.
        names = {field.name for field in fields(RunningBroker)} - {"data", "folder"}
        known = {name: value for name, value in facts.items() if name in names}
        found = RunningBroker(data=data, folder=identity, **known)
    except (FileNotFoundError, ValueError, TypeError, AttributeError):  # it starts or stops
        return None
    return found if found.lives else None


def is_occupied(data: Path) -> bool:
    """Return whether a process holds the lock of `data`: a broker runs there, starts or stops."""
    try:
        with (data / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    except FileNotFoundError:
        pass
    return False


def last_port(data: Path) -> int:
    """Return the port of the last broker on `data`; 0 if there was none."""
    try:
        found = _LISTENER.search((data / "server.properties").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _identity(data: Path) -> int:
    try:
        return (data / "lock").stat().st_ino
    except OSError:
        return 0


def _sockets(pid: int) -> set[str]:
    """Return the inodes of the sockets of a process."""
    found: set[str] = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def _connections() -> list[tuple[str, str, str]]:
    """Return remote address, state and inode of the TCP connections of this machine."""
    found: list[tuple[str, str, str]] = []
    for name in ("tcp", "tcp6"):
        path = Path("/proc/net", name)
        for line in path.read_text().splitlines()[1:] if path.exists() or name == "tcp" else ():
            fields = line.split()
            found.append((fields[2], fields[3], fields[9]))
    return found
