"""Finding the app that a user names: `module`, `module:app` or `path/to/file.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from faust.exceptions import ImproperlyConfigured

from ..agents.app import App
from ..agents.runtime import runtime_of
from ..topics.errors import AnabranchError, Usage
from .module_loader import load_module, source_of

__all__ = ["Declared", "declared_by", "load_app", "runtime_of", "source_of"]

_CHILD_S = 60.0
_MARK = "anabranch-declares "
_CHILD = """
import json, sys
from anabranch.replay.app_loader import load_app, runtime_of
runtime = runtime_of(load_app(sys.argv[1]))
print(%r + json.dumps([runtime.declared_broker, dict(runtime.client_options)]))
"""


@dataclass(frozen=True, slots=True)
class Declared:
    """Which cluster an app names itself, and librdkafka's options for it; see `App`."""

    declared_broker: str | None = None
    client_options: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


def declared_by(name: str) -> Declared:
    """What the app declares, without loading it into this process.

    A bounded run's app has to be loaded under the run's id, which is known only when the cluster is. So another process
    looks, unless the program's text shows that there is nothing to find.
    """
    text = source_of(name)
    told = (b"broker", b"config_from_object", b"_configured", b"**")
    if "BROKER_URL" not in os.environ and b"App(" in text and not any(word in text for word in told):
        return Declared()
    child = subprocess.run(  # noqa: S603 (our own interpreter, arguments in a list)
        [sys.executable, "-c", _CHILD % _MARK, name],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_CHILD_S,
        check=False,
    )
    for line in child.stdout.splitlines():
        if line.startswith(_MARK):
            broker, options = json.loads(line.removeprefix(_MARK))
            return Declared(broker, options)
    return Declared()  # it fails when it is loaded; so it will here, and says why


def load_app(name: str) -> App:
    """The app in a module of the working directory or of the installed packages.

    Raises:
        Usage: there is no such module, it fails, or it has no app.
    """
    where, _, attribute = name.partition(":")
    module = load_module(where)
    if attribute:
        app = getattr(module, attribute, None)
        if not isinstance(app, App):
            raise Usage(f"{where} has no app named {attribute}", hint="app = anabranch.App(…)")
        return discovered(app)
    apps = [value for value in vars(module).values() if isinstance(value, App)]
    if not apps:
        raise Usage(f"{where} has no app", hint="it needs a line like: app = anabranch.App(…)")
    if any(app is not apps[0] for app in apps):
        raise Usage(f"{where} has several apps", hint=f"name one: {where}:app")
    return discovered(apps[0])


def discovered(app: App) -> App:
    """The app, with the modules imported that its `autodiscover` names, as `faust worker` does it.

    Raises:
        Usage: one of them is not there or fails.
    """
    try:
        settings = cast(Any, app.conf)
    except AnabranchError:
        raise
    except Exception as exc:
        raise Usage(
            f"the app's settings cannot be read: {type(exc).__name__}: {exc}",
            hint="they come from App(…), config_from_object, on_configured and the environment",
        ) from exc
    try:
        if settings.autodiscover:  # a bool, names, or a function that gives them
            app.discover()
    except ImproperlyConfigured as exc:
        raise Usage(
            "autodiscover=True does not say which package to look through", hint="name it: App(…, origin='package')"
        ) from exc
    except AnabranchError:
        raise
    except Exception as exc:
        raise Usage(f"autodiscover: {type(exc).__name__}: {exc}", hint="App(autodiscover=[…]) names modules") from exc
    return app
