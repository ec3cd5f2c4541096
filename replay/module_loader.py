"""Loads a module that a user names, and finds its source text: `module`, `module:name` or `path/to/file.py:name`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from ..topics.error_location import raised_at
from ..topics.errors import Usage
from ..topics.spelling import did_you_mean

__all__ = ["folder_of", "load_module", "source_of"]


def load_module(name: str) -> ModuleType:
    """Import a module of the working directory or of the installed packages, or a file (`….py`).

    Raises:
        Usage: it does not exist, or importing it fails.
    """
    return _load_file(Path(name)) if name.endswith(".py") else _load_named(name)


def source_of(name: str) -> bytes:
    """Return the source text of `module:name` or `file.py:name` without running it; empty if it cannot be read.

    A changed program is recognised by it.
    """
    module = name.partition(":")[0]
    try:
        path = Path(module) if module.endswith(".py") else _find(module)
        return path.read_bytes() if path is not None else b""
    except OSError:
        return b""


def folder_of(name: str) -> Path:
    """Return the folder with the program of `module:name` or `file.py:name`; the working directory if there is none."""
    module = name.partition(":")[0]
    try:
        path = Path(module) if module.endswith(".py") else _find(module.partition(".")[0])
    except OSError:
        path = None
    return Path.cwd() if path is None or not path.exists() else path.absolute().parent


def _find(module: str) -> Path | None:
    _search_working_directory()
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _search_working_directory() -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def _load_named(name: str) -> ModuleType:
    _search_working_directory()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            top = name.split(".")[0]
            hint = did_you_mean(top, _modules_here(), f"run from the folder that holds {top}.py, or give its path")
            raise Usage(f"no module named {name}", hint=hint) from None
        raise _import_failed(name, exc) from exc
    except Usage:
        raise
    except (Exception, SystemExit) as exc:
        raise _import_failed(name, exc) from exc


def _modules_here() -> list[str]:
    """Return the modules and packages of the working directory."""
    files = [path.stem for path in Path.cwd().glob("*.py")]
    return files + [path.parent.name for path in Path.cwd().glob("*/__init__.py")]


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Usage(f"no file {path}", hint=f"searched in {Path.cwd()}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.absolute()))
    try:
        spec.loader.exec_module(module)
    except Usage:
        raise
    except (Exception, SystemExit) as exc:
        raise _import_failed(str(path), exc) from exc
    return module


def _import_failed(name: str, exc: Exception | SystemExit) -> Usage:
    last = traceback.extract_tb(exc.__traceback__)[-1]
    location = raised_at(exc) or f"{last.filename}:{last.lineno}"
    if isinstance(exc, SyntaxError):
        return Usage(f"{name} is not valid Python: {exc.msg}", hint=f"{exc.filename}:{exc.lineno}")
    if isinstance(exc, SystemExit):
        return Usage(f"{name} ends the program when it is imported (exit code {exc.code})", hint=location)
    if isinstance(exc, ModuleNotFoundError):
        return Usage(f"{name} needs the module {exc.name}, which is not installed", hint=location)
    return Usage(f"{name} fails when it is imported: {type(exc).__name__}: {exc}", hint=location)
