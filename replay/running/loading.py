"""Finding the app that a user names: `module`, `module:app` or `path/to/file.py`."""

from __future__ import annotations

from ...agents.app import App
from ...topics.errors import Usage
from ..modules import load_module, source_of

__all__ = ["load_app", "source_of"]


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
        return app
    apps = [value for value in vars(module).values() if isinstance(value, App)]
    if not apps:
        raise Usage(f"{where} has no app", hint="it needs a line like: app = anabranch.App(…)")
    if any(app is not apps[0] for app in apps):
        raise Usage(f"{where} has several apps", hint=f"name one: {where}:app")
    return apps[0]
