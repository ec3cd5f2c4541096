"""Loads the app that a user names: `module`, `module:app` or `path/to/file.py`.

Apart from `module_loader.py`, because importing this file imports Faust: replays of files with a transform do without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from faust.exceptions import ImproperlyConfigured

from ..agents.app import App
from ..agents.runtime import Runtime, runtime_of
from ..agents.topic import Topic
from ..topics.errors import AnabranchError, Usage
from ..topics.spelling import did_you_mean
from .module_loader import load_module, source_of

__all__ = ["DeclaredCluster", "Runtime", "declared_cluster", "load_app", "runtime_of", "source_of", "value_type_of"]

_CHILD_S = 60.0
_PREFIX = "anabranch-declares "
_CHILD = """
import json, sys
from anabranch.replay.app_loader import load_app, runtime_of
runtime = runtime_of(load_app(sys.argv[1]))
print(%r + json.dumps([runtime.declared_broker, dict(runtime.client_options)]))
"""


@dataclass(frozen=True, slots=True)
class DeclaredCluster:
    """The cluster that an app names, and librdkafka's options for it; see `App`."""

    declared_broker: str | None = None
    client_options: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


def declared_cluster(name: str) -> DeclaredCluster:
    """Return the cluster that an app declares, without loading the app into this process.

    The app of a bounded run has to be loaded under the run's id, which is known only when the cluster is. So another
    process loads it first, unless the program's text shows that it declares no cluster.
    """
    text = source_of(name)
    signs = (b"broker", b"config_from_object", b"_configured", b"**")
    if "BROKER_URL" not in os.environ and b"App(" in text and not any(sign in text for sign in signs):
        return DeclaredCluster()
    child = subprocess.run(  # noqa: S603 (our own interpreter, arguments in a list)
        [sys.executable, "-c", _CHILD % _PREFIX, name],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_CHILD_S,
        check=False,
    )
    for line in child.stdout.splitlines():
        if line.startswith(_PREFIX):
            broker, options = json.loads(line.removeprefix(_PREFIX))
            return DeclaredCluster(broker, options)
    return DeclaredCluster()  # the app cannot be loaded; loading it in this process will raise the error


def load_app(name: str) -> App:
    """Load an app from a module of the working directory or of the installed packages, or from a file.

    Raises:
        Usage: there is no such module, importing it fails, or it has no app.
    """
    module_name, _, attribute = name.partition(":")
    module = load_module(module_name)
    if attribute:
        app = getattr(module, attribute, None)
        if not isinstance(app, App):
            apps = [other for other, value in vars(module).items() if isinstance(value, App)]
            hint = did_you_mean(attribute, apps, "app = anabranch.App(…)")
            raise Usage(f"{module_name} has no app named {attribute}", hint=hint)
        return _discovered(app)
    named = {attribute: value for attribute, value in vars(module).items() if isinstance(value, App)}
    apps = list(named.values())
    if not apps:
        raise Usage(f"{module_name} has no app", hint="it needs a line like: app = anabranch.App(…)")
    if any(app is not apps[0] for app in apps):
        raise Usage(
            f"{module_name} has several apps",
            hint=f"name one of them: {', '.join(f'{module_name}:{attribute}' for attribute in named)}",
        )
    return _discovered(apps[0])


def value_type_of(app: App, topic: str) -> object:
    """Return the value type that an app declares for a topic; None if it declares none."""
    for agent in app.agents.values():
        if isinstance(agent.channel, Topic) and topic in agent.channel.topics:
            return agent.channel.value_type
    return None


def _discovered(app: App) -> App:
    """Import the modules that the app's `autodiscover` names, as `faust worker` does; returns the app.

    Raises:
        Usage: a module is missing or fails.
    """
    try:
        settings = app.conf
    except AnabranchError:
        raise
    except Exception as exc:
        raise Usage(
            f"the app's settings cannot be read: {type(exc).__name__}: {exc}",
            hint="they come from App(…), config_from_object, on_configured and the environment",
        ) from exc
    try:
        if getattr(settings, "autodiscover", False):  # a bool, names, or a function that returns names
            app.discover()
    except ImproperlyConfigured as exc:
        raise Usage(
            "autodiscover=True does not say which package to search", hint="name it: App(…, origin='package')"
        ) from exc
    except AnabranchError:
        raise
    except Exception as exc:
        raise Usage(f"autodiscover: {type(exc).__name__}: {exc}", hint="App(autodiscover=[…]) names modules") from exc
    return app
