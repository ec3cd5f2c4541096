"""What a file's lines mean: text, CSV or JSON Lines, and where key and time stand in them."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec

from ..topics.errors import Usage

__all__ = ["AS_THEY_ARE", "ENDINGS", "Format", "Kind", "OnBadLine", "kind_of"]

Kind = Literal["text", "csv", "jsonl"]
OnBadLine = Literal["fail", "skip", "dead-letter"]

# The encoding that is none: bytes travel as they are, unchecked.
AS_THEY_ARE = "bytes"

ENDINGS: dict[str, Kind] = {
    ".txt": "text",
    ".log": "text",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_COMPRESSED = ".gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How lines become records.

    Attributes:
        kind: `auto` goes by the file's ending (below `.gz`, and inside a `.zip`), see `ENDINGS`.
        key: field (CSV column, JSON field) whose value becomes the record's key. Text as UTF-8, numbers as they are
            written; null gives a record without a key.
        key_before: for text: what stands before the first of these is the key. The whole line stays the value.
        time: field that holds the record's time; see `stamp.Stamps` for what can be read.
        columns: names of a CSV file's columns; the file then has no header line.
        delimiter: of CSV cells; none means `,`, and a tab for `.tsv`.
        encoding: of the file. What is sent is UTF-8. `bytes` (text only) sends lines as they are, unchecked.
        nulls: CSV cells that mean null.
        as_text: keep CSV cells as strings instead of telling numbers and nulls from text.
    """

    kind: Literal["auto", "text", "csv", "jsonl"] = "auto"
    key: str | None = None
    key_before: str | None = None
    time: str | None = None
    columns: tuple[str, ...] | None = None
    delimiter: str | None = None
    encoding: str = "utf-8"
    nulls: tuple[str, ...] = ("", "NA")
    as_text: bool = False

    def checked(self, kind: Kind, name: str) -> None:
        """Refuse options that say nothing about files of `kind`, rather than ignore them.

        Args:
            name: of the file that is of this kind, for the message.

        Raises:
            Usage: an option does not fit; the message names it.
        """
        if kind == "text":
            for option, given in (("--key", self.key), ("--time", self.time)):
                if given is not None:
                    raise Usage(
                        f"{name}: {option} {given} names a field, and lines of text have none",
                        hint="--key-before DELIMITER takes the key from a line's start; or give --format csv|jsonl",
                    )
            if self.key_before == "":
                raise Usage("--key-before is empty", hint="for example --key-before ,")
        elif self.key_before is not None:
            raise Usage(f"{name}: --key-before is for text, this is {kind}", hint="--key FIELD names the key's field")
        if kind != "csv":
            for option, given in (("--columns", self.columns), ("--delimiter", self.delimiter)):
                if given is not None:
                    raise Usage(f"{name}: {option} is for CSV, this is {kind}", hint="--format csv if it is CSV")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise Usage(f"--delimiter {self.delimiter!r}: one character is expected, not a quote or a line's end")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise Usage(f"--columns {','.join(self.columns)}: a name stands twice")
        self._check_encoding(kind, name)

    def _check_encoding(self, kind: Kind, name: str) -> None:
        if self.encoding == AS_THEY_ARE:
            if kind != "text":
                raise Usage(f"{name}: --encoding bytes is for text, this is {kind}", hint="name the real encoding")
            return
        try:
            codecs.lookup(self.encoding)
            # Lines are cut before they are decoded, which only works where a line's end is the byte 10.
            fits = "\n".encode(self.encoding) == b"\n"
        except LookupError:
            raise Usage(f"--encoding {self.encoding}: unknown", hint="for example utf-8, latin-1, cp1252") from None
        if not fits:
            raise Usage(
                f"--encoding {self.encoding}: a line's end is not one byte in it", hint="turn the file into UTF-8 first"
            )

    def identity(self) -> dict[str, Any]:
        """All options as plain JSON values; two formats with the same identity read the same records."""
        return msgspec.json.decode(msgspec.json.encode(self))


def kind_of(name: str, format: Format) -> tuple[Kind, Format]:
    """The kind of a file, and the format with what the ending says filled in.

    >>> kind_of("flights.csv.gz", Format())[0]
    'csv'

    Raises:
        Usage: the ending says nothing and no kind is given, or an option does not fit the kind.
    """
    path = PurePosixPath(name.lower())
    if path.suffix == _COMPRESSED:
        path = path.with_suffix("")
    kind = ENDINGS.get(path.suffix) if format.kind == "auto" else format.kind
    if kind is None:
        raise Usage(
            f"{name}: its ending does not say what is in it",
            hint=f"give --format text|csv|jsonl (known: {' '.join(ENDINGS)}, also with .gz or inside .zip)",
        )
    format.checked(kind, name)
    if kind == "csv" and format.delimiter is None:
        format = replace(format, delimiter="\t" if path.suffix == ".tsv" else ",")
    return kind, format
