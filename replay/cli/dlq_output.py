"""What a person sees of dead letters."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import islice

import click
from rich.markup import escape

from ...topics.printable import printable
from ..dead_letters.letters import Count, Letter, NoLetters
from ..dead_letters.republisher import Republication
from ..time_text import shown_time
from .console import out, write_json

__all__ = ["show_counts", "show_letters", "show_no_letters", "show_put_back"]

_VALUE_CHARACTERS = 200

_REASONS = {"agent": "raised by agent", "decode": "not decodable for agent", "line": "no record: a line of a file"}


def show_counts(counts: Mapping[str, Mapping[tuple[str, str, str], Count]], *, as_json: bool) -> None:
    """How many dead letters there are, of which kind."""
    for topic, kinds in counts.items():
        if not as_json and kinds:
            letters, put_back = sum(c.letters for c in kinds.values()), sum(c.put_back for c in kinds.values())
            _say(f"[bold]{escape(topic)}[/bold]: {letters:,} dead letters{_put_back(put_back)}")
        for (agent, reason, error), count in sorted(kinds.items()):
            if as_json:
                facts = {"topic": topic, "agent": agent, "reason": reason, "error": error, "letters": count.letters}
                times = {"put_back": count.put_back, "first_ms": count.first_ms, "last_ms": count.last_ms}
                write_json({**facts, **times, "at": count.at or None})
            else:
                _show_kind(agent, reason, error, count)
    if not as_json and not any(counts.values()):
        _say("no dead letters")


def _show_kind(agent: str, reason: str, error: str, count: Count) -> None:
    """Of one kind; lines of less than 80 characters, as far as names are short."""
    what = _REASONS.get(reason, reason)
    _say(f"  {count.letters:>7,}  {escape(error[:60]) or '?'}{f' at {escape(count.at)}' if count.at else ''}")
    _say(f"           {what}{f' {escape(agent)}' if agent else ''}{_put_back(count.put_back)}")
    first, last = shown_time(count.first_ms), shown_time(count.last_ms)
    _say(f"           records of {first}" + (f" … {last}" if last != first else ""))


def _put_back(count: int) -> str:
    return f", {count:,} put back" if count else ""


def show_no_letters(missing: NoLetters, *, as_json: bool = False) -> None:
    """That there are none, which is no error; as JSON nothing, with a word beside it."""
    text = f"no dead letters of {missing.topic}"
    if not missing.exists:
        text += f"; there is no topic {missing.topic} either"
        if missing.others:
            text += f" (there are dead letters in {', '.join(missing.others[:10])})"
    click.echo(printable(text), err=as_json)


def show_letters(letters: Iterator[tuple[Letter, bool]], *, most: int, as_json: bool, raw: bool) -> None:
    """Letters one by one."""
    if raw:
        for letter, _ in letters:
            _write_raw(letter.value or b"")
        return
    shown = 0
    for letter, put_back in islice(letters, most):
        shown += 1
        if as_json:
            write_json({**letter.described(), "put_back": put_back})
            continue
        facts = letter.described()
        where = f"{letter.partition}@{letter.offset}"
        out.print(
            f"[bold]{where}[/bold]  {shown_time(letter.timestamp_ms)}  {escape(letter.reason)}"
            f"{'  put back' if put_back else ''}  from {escape(str(facts.get('source', '?')))}"
            f"{'  agent ' + escape(letter.facts['agent']) if 'agent' in letter.facts else ''}",
            markup=True,
        )
        out.print(f"  error  {escape(letter.facts.get('error', '?'))}", markup=True, soft_wrap=True)
        if "at" in letter.facts:
            out.print(f"  at     {escape(letter.facts['at'])}", markup=True, soft_wrap=True)
        out.print(f"  key    {escape(_short(facts['key']))}", markup=True)
        out.print(f"  value  {escape(_short(facts['value']))}", markup=True)
    if not as_json and next(letters, None) is not None:
        out.print(f"… {shown} shown; -n N shows more, -J them whole")
    elif not as_json and not shown:
        out.print("no such dead letters")


def show_put_back(report: Republication, *, dry_run: bool) -> None:
    """What was, or would be, put back."""
    would = "would be put back" if dry_run else "put back"
    _say(f"[bold]{report.sent:,}[/bold] records {would}")
    for topic, count in sorted(report.to.items()):
        app, agent = report.agents.get(topic, ("", ""))
        alone = f", which only agent {escape(agent)} of app {escape(app)} reads" if agent else ""
        _say(f"  {count:>7,} → [bold]{escape(topic)}[/bold]{alone}")
    if report.before:
        out.print(f"  {report.before:,} had been put back before")
    for letter in report.examples if dry_run else ():
        out.print(f"  {letter.partition}@{letter.offset}  {escape(letter.facts.get('error', ''))}", markup=True)
    if report.without_record:
        out.print(
            f"  [yellow]{report.without_record:,} letters have no record to put back[/yellow]: they hold lines of a "
            "file that were no records, or another program wrote them",
            markup=True,
        )
        out.print(
            "  mend the file and replay it, or: anabranch dlq show TOPIC --reason line --raw > lines.txt, mend that, "
            "anabranch replay lines.txt --to TOPIC"
        )


def _say(text: str) -> None:
    out.print(text, markup=True, highlight=False, soft_wrap=True)


def _short(text: str | None) -> str:
    if text is None:
        return "-"
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[:_VALUE_CHARACTERS]}… ({len(text):,} characters)"


def _write_raw(value: bytes) -> None:
    """A value as it is; on a terminal, as text that it cannot obey."""
    if sys.stdout.isatty():
        value = printable(value.decode(errors="backslashreplace")).encode()
    sys.stdout.buffer.write(value + b"\n")
