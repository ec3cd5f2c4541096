"""Where the apps of a test come from: each start of a worker needs an app of its own.

An app runs once. The app of a module is therefore loaded as a fresh copy of its module, together with the other modules
of the program that refer to the app or to its topics, tables and agents. The original modules are not changed; what a
test patches in them is not patched in the copies.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
import sysconfig
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from ...agents.app import App
from ...agents.runtime import COMPLETE, runtime_of
from ...topics.errors import Usage
from ..app_loader import load_app
from ..module_loader import load_module

__all__ = ["AppSource", "LoadedApp", "run_named"]

_TESTS = ("test_", "conftest", "__main__")
_INSTALLED = (*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")), str(Path(__file__).parents[2]))


@dataclass(frozen=True, slots=True)
class LoadedApp:
    """An app that has not run, and the module that has defined it.

    Attributes:
        module: the copy of the module; for an app that was made inside of a function the module of that function.
    """

    app: App
    module: ModuleType


class AppSource:
    """Makes apps for workers.

    Args:
        program: `"module:attribute"`, `"path/to/file.py"`, an app, or a function that returns a new app.

    Raises:
        Usage: it is none of them, or it cannot be loaded.
    """

    def __init__(self, program: App | str | Callable[[], App]) -> None:
        self._program = program
        self._used = False
        self._place: tuple[str, str] | None = None  # module and attribute
        if isinstance(program, str):
            self._place = _place_of(load_app(program))
            if self._place is None:
                raise Usage(f"{program}: the app is not an attribute of its module")
        elif isinstance(program, App):
            self._place = _place_of(program)
            if self._place is None and runtime_of(program).engine_started:
                raise Usage(
                    f"app {program.conf.id} has run already, and an app runs once",
                    hint="give the test a function that returns a new app",
                )
        elif not callable(program):
            raise Usage(
                f"{program!r} is no app", hint='give an App, "module:attribute", or a function that returns an App'
            )

    def load(self) -> LoadedApp:
        """Return an app for one start of a worker.

        Raises:
            Usage: the app was made inside of a function, so that there is only one of it; or the program fails.
        """
        if self._place is not None:
            return _copy(*self._place)
        if isinstance(self._program, App):
            if self._used:
                raise Usage(
                    f"app {self._program.conf.id} was made inside of a function, so it can be started once, as one "
                    "worker",
                    hint="for several workers and restarts, give a function that returns a new app",
                )
            self._used = True
            return LoadedApp(self._program, _defining_module(self._program))
        assert callable(self._program)
        app = cast(object, self._program())
        if not isinstance(app, App):
            raise Usage(f"{self._program!r} returned {app!r}, which is no app")
        return LoadedApp(app, sys.modules[self._program.__module__])


def _defining_module(app: App) -> ModuleType:
    names = [module for module in _modules_of(app) if module in sys.modules]
    return sys.modules[names[0] if names else __name__]


def _modules_of(app: App) -> Iterator[str]:
    """The names of the modules whose functions are agents or tasks of an app."""
    for agent in app.agents.values():
        yield agent.fun.__module__
    for task in app._app_tasks:  # pyright: ignore[reportPrivateUsage]
        yield task.__module__


def _place_of(app: App) -> tuple[str, str] | None:
    """Return the module and the attribute that hold an app; None if it is only in a function."""
    likely = [sys.modules[name] for name in dict.fromkeys(_modules_of(app)) if name in sys.modules]
    for module in [*likely, *filter(_is_of_a_program, list(sys.modules.values()))]:
        for name, value in list(vars(module).items()):
            if value is app and _is_own(module, app):
                return module.__name__, name
    return None


def _is_of_a_program(module: ModuleType) -> bool:
    """Return whether a module is neither Python's nor of an installed package."""
    path = getattr(module, "__file__", None)
    return path is not None and not path.startswith(_INSTALLED) and getattr(module, "__spec__", None) is not None


def _is_own(module: ModuleType, app: App) -> bool:
    """Return whether the app was defined there: a test that has imported it is not its module."""
    return not module.__name__.rpartition(".")[2].startswith(_TESTS) or module.__name__ in set(_modules_of(app))


def _copy(name: str, attribute: str) -> LoadedApp:
    """Load a module and those that belong to its app again; `sys.modules` is afterwards as before."""
    original = sys.modules[name]
    app = getattr(original, attribute)
    own = {module.__name__: module for module in _program(original, app)}
    before = {found: sys.modules.pop(found) for found in own}
    try:
        for found, module in own.items():
            if found not in sys.modules:
                _load(found, module)
        module = sys.modules[name]
    finally:
        for found in own:
            sys.modules.pop(found, None)
        sys.modules.update(before)
        for found, former in before.items():
            parent, _, child = found.rpartition(".")
            if parent in sys.modules:
                setattr(sys.modules[parent], child, former)
    return LoadedApp(getattr(module, attribute), module)


def _load(name: str, original: ModuleType) -> None:
    path = original.__file__
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name != name or path is None:
            raise
        load_module(path)  # it was loaded from a file


def _program(module: ModuleType, app: App) -> list[ModuleType]:
    """The modules of a program that hold its app, or parts of it, in the order in which they were imported.

    They are the app's own module, those of its agents and tasks, and what these import if it refers to the app. What
    imports the program, such as a test, is not part of it.
    """
    parts = {id(app), *map(id, app.agents.values()), *map(id, runtime_of(app).tables)}
    parts |= {id(topic) for topic in runtime_of(app).described.values()}
    own = {module.__name__, *(name for name in _modules_of(app) if name in sys.modules)}
    while True:
        parts |= {id(sys.modules[name]) for name in own}
        imported = {name for one in own for name in _imported_by(sys.modules[one])} - own
        more = {
            name
            for name in imported & sys.modules.keys()
            if _is_of_a_program(sys.modules[name])
            and any(id(value) in parts for value in vars(sys.modules[name]).values())
        }
        if not more:
            return [found for name, found in list(sys.modules.items()) if name in own]
        own |= more


def _imported_by(module: ModuleType) -> Iterator[str]:
    """The names of the modules that a module imports, and of some that do not exist."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return
    package = (module.__package__ or "").split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join([*package[: len(package) - node.level + 1], node.module or ""]) if node.level else node.module
            )
            base = (base or "").strip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@contextmanager
def run_named(run_id: str, *, complete: bool = False) -> Generator[None]:
    """Let apps that are created inside of the block belong to a run; for `complete` see `BoundedRun`."""
    made = {"ANABRANCH_RUN": run_id, COMPLETE: "1" if complete else ""}
    before = {name: os.environ.get(name) for name in made}
    os.environ |= made
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
