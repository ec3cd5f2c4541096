"""Recognizes files that consist of no lines by their first bytes, whatever their names say."""

from __future__ import annotations

__all__ = ["binary_kind"]

_UNPACK = "unpack it first"
_PACKED_ROWS = "--format {0}, or the extension .{0}, reads it"
# Each of them has a byte that text has not, or is too long to be there by accident.
_KINDS: dict[bytes, tuple[str, str]] = {
    b"\x1f\x8b\x08": ("gzip", "rename it: its extension is .gz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "rename it: its extension is .zst"),
    **{b"BZh%d1AY&SY" % level: ("bzip2", "rename it: its extension is .bz2") for level in range(1, 10)},
    b"\xfd7zXZ\x00": ("xz", _UNPACK),
    b"\x04\x22\x4d\x18": ("lz4", _UNPACK),
    b"PK\x03\x04": ("a zip archive", "its extension is .zip; save a spreadsheet as CSV"),
    b"PAR1\x15": ("Parquet", _PACKED_ROWS.format("parquet")),
    b"Obj\x01": ("Avro", _PACKED_ROWS.format("avro")),
    b"ARROW1\x00\x00": ("an Arrow file", "convert it to Parquet"),
    b"version https://git-lfs.github.com/": ("a pointer of Git LFS", "git lfs pull gets the file"),
    b"SQLite format 3\x00": ("an SQLite database", "export it as CSV"),
}
# A tar archive begins with a file's name; its mark, as POSIX and as GNU write it, follows. Text may have "mustard"
# there.
_TAR_BYTE = 257
_TAR = (b"ustar\x00", b"ustar  \x00")


def binary_kind(data: bytes) -> str | None:
    """Return what a file of lines really is, judged by its first bytes, and the remedy; None if it may be lines.

    >>> binary_kind(b"\\x1f\\x8b\\x08")
    'it is gzip, not lines; rename it: its extension is .gz'
    """
    if data.startswith(_TAR, _TAR_BYTE):
        return f"it is a tar archive, not lines; {_UNPACK}"
    for begin, (kind, remedy) in _KINDS.items():
        if data.startswith(begin):
            return f"it is {kind}, not lines; {remedy}"
    return None
