"""Reads fields from the names of a file's folders: `year=2013/zip=01234`, Hive partitioning.

The folders are those of the file's absolute path, so that the fields do not depend on the working directory. A field is
an integer if all files of a source write it as one, and text otherwise: `zip=01234` stays "01234", and so does
`zip=56789` beside it. `%20` stands for a blank, `__HIVE_DEFAULT_PARTITION__` for null.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote_to_bytes, urlsplit

from ....topics.errors import Usage
from .file_system import is_remote

__all__ = ["parse_hive_fields", "type_hive_fields"]

_FIELD = re.compile(r"([^=]+)=(.*)", re.DOTALL)
_NULL = "__HIVE_DEFAULT_PARTITION__"
# An integer in canonical form: no leading zeros, no minus before zero.
_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)


def parse_hive_fields(path: str) -> dict[str, str | None]:
    """Return the fields of a path as text, escapes resolved.

    >>> parse_hive_fields("/lake/event-date=2013-01-01/city=S%C3%A3o%20Paulo/a.csv")
    {'event-date': '2013-01-01', 'city': 'São Paulo'}

    Raises:
        Usage: a folder name is not valid UTF-8.
    """
    whole = urlsplit(path).path if is_remote(path) else os.path.abspath(path)  # noqa: PTH100 - `..` is resolved
    pairs = [found.groups() for part in PurePosixPath(whole).parts[:-1] if (found := _FIELD.fullmatch(part))]
    return {_text(name, path): None if text == _NULL else _text(text, path) for name, text in pairs}


def type_hive_fields(files: Sequence[Mapping[str, str | None]]) -> list[dict[str, str | int | None]]:
    """Return the fields of several files, each with one type in all of them.

    >>> type_hive_fields([{"year": "2013", "zip": "01234"}, {"year": None, "zip": "56789"}])
    [{'year': 2013, 'zip': '01234'}, {'year': None, 'zip': '56789'}]
    """
    text = {
        name
        for fields in files
        for name, written in fields.items()
        if written is not None and _WHOLE.fullmatch(written) is None
    }
    return [
        {name: int(w) if w is not None and name not in text else w for name, w in fields.items()} for fields in files
    ]


def _text(written: str, path: str) -> str:
    data = unquote_to_bytes(written.encode("utf-8", "surrogateescape"))
    try:
        return data.decode()
    except UnicodeDecodeError:
        try:
            return written.encode().decode()  # the % did not begin an escape
        except UnicodeEncodeError:
            raise Usage(
                f"{path}: the name of a folder is not UTF-8 and would become a field of its records",
                hint="rename the folder, or move the files out of it",
            ) from None
