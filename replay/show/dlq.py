"""What a person sees of dead letters."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import islice

import msgspec
from rich.markup import escape
from rich.table import Table as Grid

from ..dlq.dlq import PutBack
from ..dlq.letters import Count, Letter
from ..shown import shown_time
from .work import out

__all__ = ["show_counts", "show_letters", "show_put_back"]

_VALUE_CHARACTERS = 200


def show_counts(counts: Mapping[str, Mapping[tuple[str, str, str], Count]], *, as_json: bool) -> None:
    """How many dead letters there are, of which kind."""
    grid = Grid("topic", "agent", "reason", "error", title="dead letters", title_justify="left")
    for name in ("letters", "put back"):
        grid.add_column(name, justify="right")
    grid.add_column("first")
    grid.add_column("last")
    for topic, kinds in counts.items():
        for (agent, reason, error), count in sorted(kinds.items()):
            facts = {"topic": topic, "agent": agent, "reason": reason, "error": error, "letters": count.letters}
            times = {"put_back": count.put_back, "first_ms": count.first_ms, "last_ms": count.last_ms}
            if as_json:
                _line({**facts, **times})
            span = shown_time(count.first_ms), shown_time(count.last_ms)
            grid.add_row(
                escape(topic), agent, reason, escape(error[:60]), f"{count.letters:,}", f"{count.put_back:,}", *span
            )
    if not as_json:
        out.print(grid if grid.row_count else "no dead letters")


def show_letters(letters: Iterator[tuple[Letter, bool]], *, most: int, as_json: bool, raw: bool) -> None:
    """Letters one by one."""
    if raw:
        for letter, _ in letters:
            sys.stdout.buffer.write((letter.value or b"") + b"\n")
        return
    shown = 0
    for letter, put_back in islice(letters, most):
        shown += 1
        if as_json:
            _line({**letter.described(), "put_back": put_back})
            continue
        facts = letter.described()
        where = f"{letter.partition}@{letter.offset}"
        out.print(
            f"[bold]{where}[/bold]  {shown_time(letter.timestamp_ms)}  {letter.reason}"
            f"{'  put back' if put_back else ''}  from {escape(str(facts.get('source', '?')))}"
            f"{'  agent ' + escape(letter.facts['agent']) if 'agent' in letter.facts else ''}"
        )
        out.print(f"  error  {escape(letter.facts.get('error', '?'))}")
        out.print(f"  key    {escape(_short(facts['key']))}")
        out.print(f"  value  {escape(_short(facts['value']))}")
    if not as_json and next(letters, None) is not None:
        out.print(f"… {shown} shown; -n N shows more, -J them whole")
    elif not as_json and not shown:
        out.print("no such dead letters")


def show_put_back(report: PutBack, *, dry_run: bool) -> None:
    """What was, or would be, put back."""
    would = "would be put back" if dry_run else "put back"
    out.print(f"[bold]{report.sent:,}[/bold] records {would} → [bold]{escape(report.target)}[/bold]")
    if report.before:
        out.print(f"  {report.before:,} had been put back before")
    for letter in report.examples if dry_run else ():
        out.print(f"  {letter.partition}@{letter.offset}  {escape(letter.facts.get('error', ''))}")
    if report.without_record:
        out.print(
            f"  [yellow]{report.without_record:,} letters have no record to put back[/yellow]: they hold lines of a "
            "file that were no records, or another program wrote them"
        )
        out.print(
            "  mend the file and replay it, or: anabranch dlq show TOPIC --reason line --raw > lines.txt, mend that, "
            "anabranch replay lines.txt --to TOPIC"
        )


def _short(text: str | None) -> str:
    if text is None:
        return "-"
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[:_VALUE_CHARACTERS]}… ({len(text):,} characters)"


def _line(facts: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(facts) + b"\n")
    sys.stdout.buffer.flush()
