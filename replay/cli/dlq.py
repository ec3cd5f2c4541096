"""`anabranch dlq`: dead letters listed, shown, and put back after a fix."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from ...topics.errors import Usage
from ...topics.printable import printable
from ..time_text import shown_time
from .common_options import CommandFunction, choose_cluster, cluster_options
from .console import out, plain, write_json
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ..dead_letters.letters import Count, Letter, NoLetters, Wanted
    from ..dead_letters.republisher import Republication

__all__ = ["dlq"]

_VALUE_CHARACTERS = 200

_REASONS = {"agent": "raised by agent", "decode": "not decodable for agent", "line": "no record: a line of a file"}


@click.group()
def dlq() -> None:
    """Dead letters: what could not be processed, and is kept in TOPIC.dlq.

    \b
    Examples:
      anabranch dlq list
      anabranch dlq show orders -n 5 --reason agent
      anabranch dlq replay orders --dry-run
      anabranch dlq replay orders
    """


class Filters(TypedDict):
    """Values of the options that `filters` adds."""

    reason: str | None
    agent: str | None
    offsets: str | None
    match: str | None


def filters(command: CommandFunction) -> CommandFunction:
    """Add the options that select dead letters to a command."""
    for option in (
        click.option("--match", metavar="TEXT", help="Only letters with this in key, value or error."),
        click.option("--offset", "offsets", metavar="N[-M]", help="Only this letter, or these, by offset in the .dlq."),
        click.option("--agent", metavar="NAME", help="Only letters of this agent."),
        click.option("--reason", type=click.Choice(["agent", "decode", "line"]), help="Only letters of this kind."),
    ):
        command = option(command)
    return command


@dlq.command("list")
@click.argument("topics", nargs=-1, metavar="[TOPIC…]")
@click.option("-J", "--json", "as_json", is_flag=True, help="JSON lines.")
@cluster_options
def list_letters(
    topics: tuple[str, ...], as_json: bool, bootstrap_server: str | None, options: tuple[str, ...]
) -> None:
    """Count dead letters by topic, agent, reason and error, with the times of their records.

    \b
    Examples:
      anabranch dlq list
      anabranch dlq list orders -J
    """
    from ...topics.admin import Admin
    from ..dead_letters.letters import NoLetters, letters_topic, letters_topics
    from ..dead_letters.republisher import DeadLetters

    log_to_stderr(None)
    with choose_cluster(bootstrap_server, options) as place:
        admin = Admin(place.cluster)
        names = [letters_topic(admin, topic) for topic in topics] or letters_topics(admin)
        for missing in [name for name in names if isinstance(name, NoLetters)]:
            show_no_letters(missing, as_json=as_json)
        there = [name for name in names if isinstance(name, str)]
        if there or not topics:
            show_counts(DeadLetters.counts_of(place.cluster, there), as_json=as_json)


@dlq.command()
@click.argument("topic")
@filters
@click.option("-n", "most", type=click.IntRange(1), default=20, show_default=True, help="Letters to show.")
@click.option("-J", "--json", "as_json", is_flag=True, help="JSON lines, whole.")
@click.option("--raw", is_flag=True, help="Only the values as they are, a line each, all of them.")
@cluster_options
def show(
    topic: str,
    most: int,
    as_json: bool,
    raw: bool,
    bootstrap_server: str | None,
    options: tuple[str, ...],
    **chosen: Unpack[Filters],
) -> None:
    """Show dead letters: where each came from, why it is there, key and value.

    \b
    Examples:
      anabranch dlq show orders
      anabranch dlq show orders --agent total --match ann -J
      anabranch dlq show lines --reason line --raw > lines.txt     # mend them, then: anabranch replay lines.txt
    """
    from ...topics.admin import Admin
    from ..dead_letters.letters import NoLetters, letters_topic
    from ..dead_letters.republisher import DeadLetters

    log_to_stderr(None)
    wanted = wanted_of(**chosen)
    with choose_cluster(bootstrap_server, options) as place:
        name = letters_topic(Admin(place.cluster), topic)
        if isinstance(name, NoLetters):
            show_no_letters(name, as_json=as_json or raw)
            return
        show_letters(DeadLetters(place.cluster, name).read(wanted), most=most, as_json=as_json, raw=raw)


@dlq.command()
@click.argument("topic")
@filters
@click.option("--to", metavar="TOPIC", help="Put all records there, for all who read it.")
@click.option("--now", is_flag=True, help="Give the records the present time instead of their own.")
@click.option("--run-id", help="Another run, which knows nothing of what was put back before.")
@click.option("--dry-run", is_flag=True, help="Only say what would be put back.")
@cluster_options
def replay(
    topic: str,
    to: str | None,
    now: bool,
    run_id: str | None,
    dry_run: bool,
    bootstrap_server: str | None,
    options: tuple[str, ...],
    **chosen: Unpack[Filters],
) -> None:
    """Re-publish records for the agents that failed at them, with their key, partition, headers and time; each once.

    A record goes to APP-AGENT-retry, which that agent alone reads: other agents of its topic do not see it again.
    Workers that run find that topic within seconds. Records of the same key that came later have been processed
    before it. Letters without an agent go to the topic that they came from.

    Killed and started again, with other filters or later, it puts back what it has not put back yet. A record that
    fails again makes a new letter, which the next replay puts back.

    With --to, all records go to that topic, and to all who read it: agents that processed them do so again.

    \b
    Examples:
      anabranch dlq replay orders --dry-run
      anabranch dlq replay orders --agent total --reason agent
      anabranch dlq replay orders --to orders-to-mend
    """
    from ...topics.admin import Admin
    from ..dead_letters.letters import NoLetters, letters_topic
    from ..dead_letters.republisher import DeadLetters

    log_to_stderr(None)
    wanted = wanted_of(**chosen)
    with choose_cluster(bootstrap_server, options) as place:
        name = letters_topic(Admin(place.cluster), topic)
        if isinstance(name, NoLetters):
            show_no_letters(name)
            return
        letters = DeadLetters(place.cluster, name, to=to, run_id=run_id, now=now)
        show_put_back(letters.look(wanted) if dry_run else letters.put_back(wanted), dry_run=dry_run)


def wanted_of(reason: str | None, agent: str | None, offsets: str | None, match: str | None) -> Wanted:
    """The filters.

    Raises:
        Usage: offsets that are none.
    """
    from ..dead_letters.letters import Wanted

    span = None
    if offsets is not None:
        first, dash, last = offsets.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise Usage(f"--offset {offsets}", hint="a number, or two with a dash: --offset 7 or --offset 7-12")
        span = int(first), int(last or first)
    return Wanted(reason=reason, agent=agent, offsets=span, match=match)


def show_counts(counts: Mapping[str, Mapping[tuple[str, str, str], Count]], *, as_json: bool) -> None:
    """How many dead letters there are, of which kind."""
    for topic, kinds in counts.items():
        if not as_json and kinds:
            letters, put_back = sum(c.letters for c in kinds.values()), sum(c.put_back for c in kinds.values())
            _say(f"[bold]{plain(topic)}[/bold]: {letters:,} dead letters{_put_back(put_back)}")
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
    _say(f"  {count.letters:>7,}  {plain(error[:60]) or '?'}{f' at {plain(count.at)}' if count.at else ''}")
    _say(f"           {what}{f' {plain(agent)}' if agent else ''}{_put_back(count.put_back)}")
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
            f"[bold]{where}[/bold]  {shown_time(letter.timestamp_ms)}  {plain(letter.reason)}"
            f"{'  put back' if put_back else ''}  from {plain(str(facts.get('source', '?')))}"
            f"{'  agent ' + plain(letter.facts['agent']) if 'agent' in letter.facts else ''}",
            markup=True,
        )
        out.print(f"  error  {plain(letter.facts.get('error', '?'))}", markup=True, soft_wrap=True)
        if "at" in letter.facts:
            out.print(f"  at     {plain(letter.facts['at'])}", markup=True, soft_wrap=True)
        out.print(f"  key    {plain(_short(facts['key']))}", markup=True)
        out.print(f"  value  {plain(_short(facts['value']))}", markup=True)
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
        alone = f", which only agent {plain(agent)} of app {plain(app)} reads" if agent else ""
        _say(f"  {count:>7,} → [bold]{plain(topic)}[/bold]{alone}")
    if report.before:
        out.print(f"  {report.before:,} had been put back before")
    for letter in report.examples if dry_run else ():
        out.print(f"  {letter.partition}@{letter.offset}  {plain(letter.facts.get('error', ''))}", markup=True)
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
