"""`anabranch dlq`: list dead letters, show them, and replay them after a fix."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from ...topics.errors import Usage
from ...topics.printable import printable
from ...topics.private_texts import HIDDEN_TEXT
from ..time_text import format_time
from .common_options import (
    CommandFunction,
    allow_late_option,
    choose_cluster,
    cluster_options,
    named_app,
    show_private_option,
)
from .console import counted, out, plain, write_json
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ...topics.private_fields import PrivateFields
    from ..dead_letters.dead_letter_reader import DeadLetterFilter, DeadLetterRecord, KindCount, NoDeadLetters
    from ..dead_letters.republisher import Republication

__all__ = ["dlq"]

_VALUE_CHARACTERS = 200

# Reason of a dead letter -> its description, which the name of the agent follows, if there is one.
_REASONS = {
    "agent": "raised by agent",
    "decode": "cannot be decoded for agent",
    "line": "bad line of a file",
    "window": "window that could not be told, of agent",
}


@click.group()
def dlq() -> None:
    """List, show and replay dead letters: records that could not be processed and were sent to TOPIC.dlq.

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
        click.option("--match", metavar="TEXT", help="Only dead letters with this text in key, value or error."),
        click.option("--offset", "offsets", metavar="N[-M]", help="Only dead letters with these offsets in TOPIC.dlq."),
        click.option("--agent", metavar="NAME", help="Only dead letters of this agent."),
        click.option(
            "--reason",
            type=click.Choice(["agent", "decode", "line", "window"]),
            help="Only dead letters that an agent raised, that could not be decoded, that are bad lines, or windows.",
        ),
    ):
        command = option(command)
    return command


@dlq.command("list")
@click.argument("topics", nargs=-1, metavar="[TOPIC…]")
@click.option("-J", "--json", "as_json", is_flag=True, help="Print JSON lines.")
@show_private_option
@cluster_options
@click.pass_context
def list_letters(
    context: click.Context,
    topics: tuple[str, ...],
    as_json: bool,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Count dead letters by topic, agent, reason and error.

    \b
    Examples:
      anabranch dlq list
      anabranch dlq list orders -J
    """
    from ...topics.admin import Admin
    from ..dead_letters.dead_letter_reader import NoDeadLetters, dead_letter_topics, find_dead_letter_topic
    from ..dead_letters.republisher import Republisher
    from ..shown_fields import private_fields_by_topic

    log_to_stderr(None)
    with choose_cluster(bootstrap_server, options) as choice:
        admin = Admin(choice.cluster)
        names = [find_dead_letter_topic(admin, topic) for topic in topics] or dead_letter_topics(admin)
        for missing in [name for name in names if isinstance(name, NoDeadLetters)]:
            show_no_letters(missing, as_json=as_json)
        there = [name for name in names if isinstance(name, str)]
        if there or not topics:
            found = private_fields_by_topic(choice.cluster, there, context.obj, admin=admin)
            private = {name for name, fields in found.items() if fields}
            show_counts(Republisher.counts_of(choice.cluster, there), as_json=as_json, private=private)


@dlq.command()
@click.argument("topic")
@filters
@click.option("-n", "most", type=click.IntRange(1), default=20, show_default=True, help="Dead letters to show.")
@click.option("-J", "--json", "as_json", is_flag=True, help="Print JSON lines, with complete values.")
@click.option("--raw", is_flag=True, help="Print only the values, unchanged, one per line, all of them.")
@show_private_option
@cluster_options
@click.pass_context
def show(
    context: click.Context,
    topic: str,
    most: int,
    as_json: bool,
    raw: bool,
    bootstrap_server: str | None,
    options: tuple[str, ...],
    **chosen: Unpack[Filters],
) -> None:
    """Show dead letters with their origin, reason, error, key and value.

    Private fields are shown as ***: those that the dead letter, apps in this cluster or the app of -A name. The dead
    letters themselves are whole, so that they can be repaired; --raw prints them only with --show-private.

    \b
    Examples:
      anabranch dlq show orders
      anabranch dlq show orders --agent total --match ann -J
      anabranch dlq show sales --reason window -J                  # windows that could not be told
      anabranch dlq show lines --reason line --raw > lines.txt     # fix them, then: anabranch replay lines.txt
    """
    from ...topics.admin import Admin
    from ..dead_letters.dead_letter_reader import NoDeadLetters, find_dead_letter_topic
    from ..dead_letters.republisher import Republisher
    from ..shown_fields import private_fields

    log_to_stderr(None)
    wanted = filter_of(**chosen)
    with choose_cluster(bootstrap_server, options) as choice:
        name = find_dead_letter_topic(Admin(choice.cluster), topic)
        if isinstance(name, NoDeadLetters):
            show_no_letters(name, as_json=as_json or raw)
            return
        private = private_fields(choice.cluster, name, context.obj)
        letters = Republisher(choice.cluster, name).read(wanted)
        show_letters(letters, most=most, as_json=as_json, raw=raw, private=private)


@dlq.command()
@click.argument("topic")
@filters
@click.option("--to", metavar="TOPIC", help="Re-publish to this topic instead, for all its consumers.")
@click.option("--now", is_flag=True, help="Use the current time instead of the records' own times.")
@click.option("--run-id", help="Start a new run, which re-publishes dead letters that an earlier run has re-published.")
@click.option("--dry-run", is_flag=True, help="Only show what would be re-published.")
@allow_late_option
@cluster_options
@click.pass_context
def replay(
    context: click.Context,
    topic: str,
    to: str | None,
    now: bool,
    run_id: str | None,
    dry_run: bool,
    allow_late: bool,
    bootstrap_server: str | None,
    options: tuple[str, ...],
    **chosen: Unpack[Filters],
) -> None:
    """Re-publish dead letters for the agents that failed, each once, with key, partition, headers and time.

    A record goes to APP-AGENT-retry, which only that agent reads: other agents of its topic do not see it again.
    Running workers find this topic within seconds. Later records of the same key have been processed before it. Dead
    letters without an agent go to the topic that they came from. A window whose on_window_close has failed, or that
    could not be sent behind final(), is told again with the value that it had when it closed; updates are not.

    The command can be repeated, after a crash or with other filters: it re-publishes only what has not been
    re-published yet. A record that fails again becomes a new dead letter, which the next replay re-publishes.

    With --to, all records go to that topic and to all its consumers: agents that processed them process them again.

    Records that would be late for windows are refused, unless --allow-late is given. With -A APP, their times are those
    that the app declares, otherwise their timestamps.

    \b
    Examples:
      anabranch dlq replay orders --dry-run
      anabranch dlq replay orders --agent total --reason agent
      anabranch dlq replay orders --to orders-to-fix
    """
    from ...topics.admin import Admin
    from ..dead_letters.dead_letter_reader import NoDeadLetters, find_dead_letter_topic
    from ..dead_letters.republisher import Republisher
    from ..late_history import count_late_letters, refusal

    log_to_stderr(None)
    wanted = filter_of(**chosen)
    with choose_cluster(bootstrap_server, options) as choice:
        admin = Admin(choice.cluster)
        name = find_dead_letter_topic(admin, topic)
        if isinstance(name, NoDeadLetters):
            show_no_letters(name)
            return
        letters = Republisher(choice.cluster, name, to=to, run_id=run_id, now=now, admin=admin)
        left = (letter for letter, done in letters.read(wanted) if not done)
        runtime = named_app(context)
        app = None if runtime is None else runtime.app
        late = count_late_letters(choice.cluster, left, to, app, now=now, admin=admin)
        if late and not (allow_late or dry_run):
            raise refusal(late)
        for count in late:
            click.echo(printable(str(count)), err=True)
        show_republication(letters.preview(wanted) if dry_run else letters.republish(wanted), dry_run=dry_run)


def filter_of(reason: str | None, agent: str | None, offsets: str | None, match: str | None) -> DeadLetterFilter:
    """Return the filter that the options describe.

    Raises:
        Usage: `--offset` is malformed.
    """
    from ..dead_letters.dead_letter_reader import DeadLetterFilter

    span = None
    if offsets is not None:
        first, dash, last = offsets.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise Usage(f"--offset {offsets}", hint="an offset or a range: --offset 7 or --offset 7-12")
        span = int(first), int(last or first)
    return DeadLetterFilter(reason=reason, agent=agent, offsets=span, match=match)


def show_counts(
    counts: Mapping[str, Mapping[tuple[str, str, str], KindCount]], *, as_json: bool, private: Collection[str] = ()
) -> None:
    """Print the number of dead letters of each kind.

    Args:
        private: topics whose bad lines may hold private fields, which the reason may quote.
    """
    for topic, kinds in counts.items():
        if not as_json and kinds:
            letters, republished = sum(c.letters for c in kinds.values()), sum(c.republished for c in kinds.values())
            _print(f"[bold]{plain(topic)}[/bold]: {counted(letters, 'dead letter')}{_republished(republished)}")
        for (agent, reason, error), count in sorted(kinds.items()):
            if reason == "line" and topic in private:
                error = HIDDEN_TEXT
            if as_json:
                write_json(
                    {
                        "topic": topic,
                        "agent": agent,
                        "reason": reason,
                        "error": error,
                        "raised_at": count.at or None,
                        "dead_letters": count.letters,
                        "republished": count.republished,
                        "first_record_ms": count.first_ms,
                        "last_record_ms": count.last_ms,
                    }
                )
            else:
                _show_kind(agent, reason, error, count)
    if not as_json and not any(counts.values()):
        _print("no dead letters")


def _show_kind(agent: str, reason: str, error: str, count: KindCount) -> None:
    """Print one kind, in lines of less than 80 characters unless names are long."""
    reason = _REASONS.get(reason, reason)
    _print(f"  {count.letters:>7,}  {plain(error[:60]) or '?'}{f' at {plain(count.at)}' if count.at else ''}")
    _print(f"           {reason}{f' {plain(agent)}' if agent else ''}{_republished(count.republished)}")
    first, last = format_time(count.first_ms), format_time(count.last_ms)
    _print(f"           record times {first}" + (f" … {last}" if last != first else ""))


def _republished(count: int) -> str:
    return f", {count:,} re-published" if count else ""


def show_no_letters(missing: NoDeadLetters, *, as_json: bool = False) -> None:
    """Say that a topic has no dead letters, which is not an error; for JSON output on stderr."""
    text = f"no dead letters for topic {missing.topic}"
    if not missing.exists:
        text += ", which does not exist"
        if missing.others:
            text += f" (topics with dead letters: {', '.join(missing.others[:10])})"
    click.echo(printable(text), err=as_json)


def show_letters(
    letters: Iterator[tuple[DeadLetterRecord, bool]], *, most: int, as_json: bool, raw: bool, private: PrivateFields
) -> None:
    """Print dead letters, at most `most` of them unless `raw`.

    Raises:
        Usage: a value with private fields would be printed unchanged.
    """
    if raw:
        for letter, _ in letters:
            if private.joined(letter.private):
                raise Usage(
                    f"{letter.topic}: --raw prints values unchanged, and these have private fields",
                    hint="--raw --show-private prints them",
                )
            _write_raw(letter.value or b"")
        return
    shown = 0
    for letter, republished in islice(letters, most):
        shown += 1
        if as_json:
            write_json({**letter.described(private), "republished": republished})
            continue
        facts = letter.described(private)
        position = f"{letter.partition}@{letter.offset}"
        out.print(
            f"[bold]{position}[/bold]  {format_time(letter.timestamp_ms)}  {plain(letter.reason)}"
            f"{'  re-published' if republished else ''}  from {plain(str(facts.get('source', '?')))}"
            f"{'  agent ' + plain(letter.facts['agent']) if 'agent' in letter.facts else ''}",
            markup=True,
        )
        out.print(f"  error  {plain(facts.get('error', '?'))}", markup=True, soft_wrap=True)
        if "window" in letter.facts:
            operator = plain(letter.facts.get("operator", "?"))
            out.print(f"  window {plain(letter.facts['window'])} of table {operator}", markup=True, soft_wrap=True)
        if "at" in letter.facts:
            out.print(f"  at     {plain(letter.facts['at'])}", markup=True, soft_wrap=True)
        out.print(f"  key    {plain(_short(facts['key']))}", markup=True)
        out.print(f"  value  {plain(_short(facts['value']))}", markup=True)
    if not as_json and next(letters, None) is not None:
        out.print(f"… {shown} shown; -n N shows more, -J shows complete values")
    elif not as_json and not shown:
        out.print("no matching dead letters")


def show_republication(report: Republication, *, dry_run: bool) -> None:
    """Print what was or, in a dry run, would be re-published."""
    done = "would re-publish" if dry_run else "re-published"
    _print(f"{done} [bold]{counted(report.sent, 'record')}[/bold]")
    for topic, count in sorted(report.to.items()):
        app, agent = report.agents.get(topic, ("", ""))
        alone = f", read only by agent {plain(agent)} of app {plain(app)}" if agent else ""
        _print(f"  {count:>7,} → [bold]{plain(topic)}[/bold]{alone}")
    if report.before:
        out.print(f"  {report.before:,} re-published earlier")
    for letter in report.examples if dry_run else ():
        out.print(f"  {letter.partition}@{letter.offset}  {plain(letter.facts.get('error', ''))}", markup=True)
    if report.windows:
        out.print(
            f"  [yellow]{counted(report.windows, 'window')} not re-published[/yellow]: a window returns only to its "
            "agent, without --to, and not if",
            markup=True,
        )
        out.print("  it is an update, other windows are made of it, or JSON does not give its key and value back")
        out.print("  correct the function, and send what is missing from: anabranch dlq show TOPIC --reason window -J")
    if report.without_record:
        out.print(
            f"  [yellow]{counted(report.without_record, 'dead letter')} without a record[/yellow]: a bad line of a "
            "file, or written by another program",
            markup=True,
        )
        out.print(
            "  fix the file and replay it, or: anabranch dlq show TOPIC --reason line --raw > lines.txt, fix that "
            "file, anabranch replay lines.txt --to TOPIC"
        )


def _print(text: str) -> None:
    out.print(text, markup=True, highlight=False, soft_wrap=True)


def _short(text: object) -> str:
    if text is None:
        return "-"
    text = str(text)
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[:_VALUE_CHARACTERS]}… ({len(text):,} characters)"


def _write_raw(value: bytes) -> None:
    """Write a value unchanged; on a terminal, escape its control characters."""
    if sys.stdout.isatty():
        value = printable(value.decode(errors="backslashreplace")).encode()
    sys.stdout.buffer.write(value + b"\n")
