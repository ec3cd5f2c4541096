"""Methods that give a table of an app windows: `app.Table("views", default=int).tumbling(600, expires=900)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...topics.durations import Duration, duration_ms
from ...topics.errors import Usage
from ..event_time.windows import Hopping, Tumbling, Windows
from .open_partition import K, V

if TYPE_CHECKING:
    from .table import Table
    from .window_wrapper import WindowWrapper

__all__ = ["hopping", "tumbling", "using_window"]


def tumbling(
    table: Table[K, V], size: Duration, expires: Duration | None = None, key_index: bool = False
) -> WindowWrapper[K, V]:
    """Give the table windows of one size, one after the other; see docs/windows.md.

    Args:
        size: how long each is.
        expires: how long after its start a record may still count in a window, and how long a closed window stays.
            None: windows neither close nor expire.
        key_index: of Faust; keys are always known here.

    Raises:
        Usage: the table cannot have windows.
    """
    del key_index
    return _windowed(table, Tumbling(size), size, expires)


def hopping(
    table: Table[K, V], size: Duration, step: Duration, expires: Duration | None = None, key_index: bool = False
) -> WindowWrapper[K, V]:
    """Give the table windows of one size of which one begins at every step; see `tumbling`."""
    del key_index
    return _windowed(table, Hopping(size, step), size, expires)


def using_window(table: Table[K, V], window: Any, *, key_index: bool = False) -> WindowWrapper[K, V]:
    """Give the table windows of Faust's classes `TumblingWindow` and `HoppingWindow`; see `tumbling`."""
    if not hasattr(window, "step"):
        raise Usage(
            f"table {table.name}: windows of the kind {type(window).__name__} are not supported",
            hint="tumbling or hopping windows",
        )
    return hopping(table, window.size, window.step, window.expires, key_index)


def _windowed(table: Table[K, V], windows: Windows, size: Duration, expires: Duration | None) -> WindowWrapper[K, V]:
    if table.with_windows is None:
        raise Usage(
            f"table {table.name}: this kind of table cannot have windows",
            hint="app.Table(…) without ttl=… and local=True; a table of lists instead of a SetTable",
        )
    expires_ms = None if expires is None else duration_ms(expires, "expires", zero=False)
    return table.with_windows(windows, duration_ms(size, "size"), expires_ms)
