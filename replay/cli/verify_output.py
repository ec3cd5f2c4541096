"""What a person sees of a comparison."""

from __future__ import annotations

from ..verify.comparison import Compared
from .run_output import out

__all__ = ["show_verified"]

_SHOWN_CHARS = 100


def show_verified(compared: Compared) -> None:
    """Both sides, and what differs."""
    for tally in (compared.a, compared.b):
        out.print(f"{tally.records:>12,} records  digest {tally.digest}  {tally.name}", markup=False)
        if tally.unreadable:
            out.print(f"{tally.unreadable:>12,} that cannot be read, for example:", style="red")
            for example in tally.examples:
                out.print(f"               {example}", markup=False)
    if compared.same:
        out.print(f"the same, in any order ({', '.join(compared.fields)})")
        return
    if compared.equal:
        out.print("they differ in what cannot be read; the records are the same", style="red")
        return
    out.print(f"they differ ({', '.join(compared.fields)} were compared)", style="red")
    for side in (compared.a.name, compared.b.name):
        found = [difference for difference in compared.differences if difference.only_in == side]
        if found:
            out.print(f"only, or more often, in {side}:", markup=False)
        for difference in found:
            out.print(f"  {difference.where}: {_shown(difference.key)} = {_shown(difference.value)}", markup=False)


def _shown(data: bytes | None) -> str:
    if data is None:
        return "null"
    text = data.decode("utf-8", "backslashreplace")
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
