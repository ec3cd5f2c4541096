"""`Format`: the kind of a file (text, CSV, JSON Lines, Parquet, Avro), and which fields give key, time and headers."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from ...topics.errors import Usage
from ...topics.json_value import JsonValue

__all__ = [
    "COMPRESSED_ENDINGS",
    "ENDINGS",
    "LINE_KINDS",
    "RAW_BYTES",
    "Format",
    "FormatKind",
    "OnBadLine",
    "has_known_ending",
    "kind_of",
]

FormatKind = Literal["text", "csv", "jsonl", "parquet", "avro"]
OnBadLine = Literal["fail", "skip", "dead-letter"]

# Not an encoding: bytes are sent unchanged and unchecked.
RAW_BYTES = "bytes"

ENDINGS: dict[str, FormatKind] = {
    ".txt": "text",
    ".log": "text",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".avro": "avro",
}
COMPRESSED_ENDINGS = (".gz", ".zst", ".bz2")

# Kinds that hold a record a line. The others are read by row, and are compressed inside the file.
LINE_KINDS = frozenset({"text", "csv", "jsonl"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How the lines or rows of files become records. EXPRESSION is a field or a formula, see `field_expression`.

    Attributes:
        kind: `auto` decides by the file's ending (before `.gz`, `.zst` and `.bz2`, and inside a `.zip`), see `ENDINGS`.
        key: EXPRESSION for the record's key: text as UTF-8, numbers as they are written, null as no key.
        key_before: for text: the part of a line before the first of these delimiters is the key. The whole line remains
            the value.
        time: EXPRESSION for the record's timestamp.
        time_format: how times are written; see `time_parser.parse_time_ms`.
        time_zone: zone of times that name none.
        headers: names, each with the EXPRESSION for its value; null omits the header.
        partition: EXPRESSION for the number of the record's partition; null leaves the choice to the key.
        columns: names of a CSV file's columns; the file then has no header line.
        types: types of CSV columns that are declared instead of inferred: `text`, `int`, `float` or `bool`.
        declared: the same for columns that a file may lack, from the value type of the app's topic; `text?` is text
            that may be null. `types` takes precedence. The app determines these, so the identity leaves them out.
        inferred: types of the other CSV columns, inferred from samples of all files; see `csv_type_inference`. The
            files determine these, so the identity leaves them out.
        delimiter: delimiter of CSV cells; None means `,`, and a tab for `.tsv`.
        quote: quote of CSV cells; empty for files without quotes.
        encoding: encoding of the file; records are sent as UTF-8. `bytes` (text only) sends lines unchanged, unchecked.
        nulls: CSV cells that mean null, except in a column that is declared as text.
        as_text: keep CSV cells as text instead of inferring numbers and nulls.
    """

    kind: Literal["auto", "text", "csv", "jsonl", "parquet", "avro"] = "auto"
    key: str | None = None
    key_before: str | None = None
    time: str | None = None
    time_format: str = "auto"
    time_zone: str = "UTC"
    headers: tuple[tuple[str, str], ...] = ()
    partition: str | None = None
    columns: tuple[str, ...] | None = None
    types: tuple[tuple[str, str], ...] = ()
    declared: tuple[tuple[str, str], ...] = ()
    inferred: tuple[tuple[str, str], ...] = ()
    delimiter: str | None = None
    quote: str = '"'
    encoding: str = "utf-8"
    nulls: tuple[str, ...] = ("", "null")
    as_text: bool = False

    def checked(self, kind: FormatKind, name: str) -> None:
        """Refuse options that do not apply to files of `kind`, instead of ignoring them.

        Args:
            name: the file's name, for the message.

        Raises:
            Usage: an option does not fit; the message names it.
        """
        if kind == "text":
            wishes = [("--key", self.key), ("--time", self.time), ("--partition", self.partition)]
            for option, given in (*wishes, *(("--header", text) for _, text in self.headers)):
                if given is not None:
                    raise Usage(
                        f"{name}: {option} {given} names a field, but lines of text have no fields",
                        hint="--key-before DELIMITER reads the key from the start of a line; or use --format csv|jsonl",
                    )
            if self.key_before == "":
                raise Usage("--key-before is empty", hint="for example --key-before ,")
        elif self.key_before is not None:
            raise Usage(f"{name}: --key-before is for text, this is {kind}", hint="--key FIELD names the key's field")
        if kind != "csv":
            given = (("columns", self.columns), ("delimiter", self.delimiter), ("types", self.types or None))
            for option, value in (*given, ("quote", None if self.quote == '"' else self.quote)):
                if value is not None:
                    raise Usage(f"{name}: --{option} is for CSV, this is {kind}", hint="--format csv if it is CSV")
        else:
            self._check_csv()
        if self.time is None and (self.time_format, self.time_zone) != ("auto", "UTC"):
            raise Usage("--time-format and --time-zone apply to --time FIELD, which is missing")
        self._check_encoding(kind, name)

    def _check_csv(self) -> None:
        for option, mark in (("--delimiter", self.delimiter), ("--quote", self.quote or None)):
            if mark is not None and (len(mark) != 1 or mark in "\r\n" or not mark.isascii()):
                raise Usage(f"{option} {mark!r}: expected one character that is not a line break")
        if self.delimiter is not None and self.delimiter == self.quote:
            raise Usage(f"--delimiter {self.delimiter!r}: expected one character other than the quote")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise Usage(f"--columns {','.join(self.columns)}: duplicate name")
        for column, kind in self.types:
            if kind not in ("text", "int", "float", "bool"):
                raise Usage(f"--types {column}={kind}: unknown type", hint="text, int, float or bool")

    def _check_encoding(self, kind: FormatKind, name: str) -> None:
        if kind not in LINE_KINDS:
            return
        if self.encoding == RAW_BYTES:
            if kind != "text":
                raise Usage(f"{name}: --encoding bytes is for text, this is {kind}", hint="name the real encoding")
            return
        try:
            if codecs.lookup(self.encoding).name == "utf-8-sig":
                return
            # Lines are split before they are decoded, which needs a line end that is the byte 10.
            fits = "\n".encode(self.encoding) == b"\n"
        except (LookupError, UnicodeError):
            raise Usage(f"--encoding {self.encoding}: unknown", hint="for example utf-8, latin-1, cp1252") from None
        if not fits:
            raise Usage(
                f"--encoding {self.encoding}: its line break is not a single byte",
                hint="convert the file to UTF-8 first",
            )

    def identity(self) -> dict[str, JsonValue]:
        """Return all options as JSON values. Two formats with the same identity read the same records."""
        return msgspec.json.decode(msgspec.json.encode(replace(self, declared=(), inferred=())))


def kind_of(name: str, format: Format) -> tuple[FormatKind, Format]:
    """Return the kind of a file, and the format completed by what the file's ending implies.

    >>> kind_of("flights.csv.gz", Format())[0]
    'csv'

    Raises:
        Usage: the ending is unknown and no kind is given, or an option does not fit the kind.
    """
    ending = _ending(name)
    kind = ENDINGS.get(ending) if format.kind == "auto" else format.kind
    if kind is None:
        raise Usage(
            f"{name}: unknown file extension",
            hint=f"use --format text|csv|jsonl|parquet|avro (known extensions: {' '.join(ENDINGS)}, lines also with "
            f"{' '.join(COMPRESSED_ENDINGS)}, all inside .zip)",
        )
    if kind not in LINE_KINDS and name.lower().endswith(COMPRESSED_ENDINGS):
        raise Usage(
            f"{name}: {kind} files have compression of their own and need random access", hint="unpack it first"
        )
    format.checked(kind, name)
    if kind == "csv" and format.delimiter is None:
        format = replace(format, delimiter="\t" if ending == ".tsv" else ",")
    return kind, format


def has_known_ending(name: str) -> bool:
    """Return whether the kind of a file follows from its ending."""
    return _ending(name) in ENDINGS


def _ending(name: str) -> str:
    path = PurePosixPath(name.lower())
    return path.with_suffix("").suffix if path.suffix in COMPRESSED_ENDINGS else path.suffix
