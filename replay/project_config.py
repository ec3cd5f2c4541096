"""Options of all commands, in a file: `anabranch.toml`, or the section `[tool.anabranch]` of `pyproject.toml`.

    app = "shop"                            # as -A
    bootstrap-servers = "kafka:9092"        # as -b; a list is possible
    data = "/var/lib/anabranch"             # as ANABRANCH_HOME

    [options]                               # as -X, for a cluster that is named here, in the environment or by -b
    security.protocol = "SSL"

The file is read from the working directory. Options of the command line win over the environment, and that over the
file, which wins over the program.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

from ..topics.errors import Usage
from ..topics.spelling import did_you_mean

__all__ = ["FILES", "ProjectConfig", "apply_data_folder", "project_config"]

FILES = ("anabranch.toml", "pyproject.toml")

_KEYS = ("app", "bootstrap-servers", "data", "options")


@dataclass(frozen=True, slots=True)
class ProjectConfig:
    """The settings of a file; None where it has none.

    Attributes:
        source: name of the file, empty if there is none.
        app: the app, as for `-A`.
        bootstrap_servers: `host:port`, several with commas.
        data: folder for data on this machine, absolute.
        options: librdkafka's options, for a cluster that is named.
    """

    source: str = ""
    app: str | None = None
    bootstrap_servers: str | None = None
    data: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


def project_config() -> ProjectConfig:
    """Return the configuration of the working directory.

    Raises:
        Usage: a file cannot be read, has an unknown key or a value of another type, or both files have settings.
    """
    return _read(Path.cwd())


@cache
def _read(folder: Path) -> ProjectConfig:
    own, shared = (folder / name for name in FILES)
    found = {own: _table(own)} if own.exists() else {}
    if shared.exists():
        section = _table(shared).get("tool", {}).get("anabranch")
        if section is not None:
            found[shared] = section
    if len(found) > 1:
        raise Usage("both anabranch.toml and pyproject.toml have settings of anabranch", hint="keep one of them")
    return _parsed(*next(iter(found.items()))) if found else ProjectConfig()


def _table(path: Path) -> dict[str, Any]:
    import tomllib  # only where there is a file

    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise Usage(f"{path.name}: {exc}") from exc


def _parsed(path: Path, given: object) -> ProjectConfig:
    if not isinstance(given, dict):
        raise Usage(f"{path.name}: tool.anabranch is not a table")
    settings = {key.replace("_", "-"): value for key, value in cast("dict[str, Any]", given).items()}
    for key in settings:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS, f"keys: {', '.join(_KEYS)}")
            raise Usage(f"{path.name}: there is no setting {key}", hint=hint)
    servers = settings.get("bootstrap-servers")
    if isinstance(servers, list):
        servers = ",".join(_text(path, "bootstrap-servers", one) or "" for one in cast("list[object]", servers))
    data = _text(path, "data", settings.get("data"))
    options = settings.get("options", {})
    if not isinstance(options, dict):
        raise Usage(f"{path.name}: options is not a table", hint='[options], and in it: security.protocol = "SSL"')
    return ProjectConfig(
        path.name,
        _text(path, "app", settings.get("app")),
        _text(path, "bootstrap-servers", servers),
        None if data is None else path.parent / Path(data).expanduser(),
        dict(_options(path, "", cast("dict[str, object]", options))),
    )


def _text(path: Path, key: str, value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise Usage(f"{path.name}: {key} = {value!r} is not a text", hint=f'{key} = "…"')
    return value


def _options(path: Path, prefix: str, given: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return options by their dotted names; TOML reads `security.protocol` as a table in a table."""
    found: list[tuple[str, str]] = []
    for key, value in given.items():
        name = f"{prefix}{key}"
        match value:
            case dict():
                found += _options(path, f"{name}.", cast("dict[str, object]", value))
            case bool():
                found.append((name, str(value).lower()))
            case str() | int() | float():
                found.append((name, str(value)))
            case _:
                raise Usage(f"{path.name}: options: {name} is neither text nor a number")
    return found


def apply_data_folder(config: ProjectConfig) -> None:
    """Let this process and those that it starts keep their data in the folder that the file names."""
    if config.data is not None and not os.environ.get("ANABRANCH_HOME"):
        os.environ["ANABRANCH_HOME"] = str(config.data)
