"""A file that must stay as it is while it is read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

from ....topics.errors import Stop
from .storage import is_remote, open_raw, version_of

__all__ = ["open_watched"]

_BUFFER_BYTES = 64 * 1024


def open_watched(path: str, version: tuple[int, ...]) -> IO[bytes]:
    """Open a file's bytes; reading them says so where it was written to or replaced since it had this version.

    Records of two versions would be sent as those of one file, or bytes twice. Of remote files nobody can tell.

    Raises:
        OSError: it cannot be opened.
    """
    if is_remote(path) or not version:
        return open_raw(path)
    return io.BufferedReader(_Watched(path, version), _BUFFER_BYTES)


class _Watched(io.FileIO):
    def __init__(self, path: str, version: tuple[int, ...]) -> None:
        super().__init__(path, "rb")
        self._path, self._version = Path(path), version

    def readinto(self, buffer: Any, /) -> int | None:
        """See `io.RawIOBase`."""
        count = super().readinto(buffer)
        self._look()
        return count

    def readall(self) -> bytes:
        """See `io.RawIOBase`."""
        data = super().readall()
        self._look()
        return data

    def _look(self) -> None:
        # After the reading, so that what was read is of the version that is found.
        try:
            now = version_of(self._path.stat())
        except OSError as exc:
            raise _changed(self._path, f"it is there no more ({exc.strerror})") from None
        if now != self._version:
            replaced = now[:2] != self._version[:2]
            what = f"from {self._version[2]:,} to {now[2]:,} bytes" if now[2] != self._version[2] else "in its content"
            raise _changed(self._path, "it was replaced by another file" if replaced else f"it changed {what}")


def _changed(path: Path, how: str) -> Stop:
    return Stop(
        f"{path} changed while it was read: {how}",
        hint="replay files that nobody writes to any more; what is still written comes by tcp:// or from a copy",
    )
