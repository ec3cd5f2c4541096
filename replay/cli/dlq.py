"""`anabranch dlq`: dead letters listed, shown, and put back after a fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ...topics.errors import Usage
from .common_options import cluster_options, log_to_stderr, on_ground

__all__ = ["dlq"]


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


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which letters."""
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
    from .dlq_output import show_counts, show_no_letters

    log_to_stderr(None)
    with on_ground(bootstrap_server, options) as place:
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
    **chosen: Any,
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
    from .dlq_output import show_letters, show_no_letters

    log_to_stderr(None)
    wanted = wanted_of(**chosen)
    with on_ground(bootstrap_server, options) as place:
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
    **chosen: Any,
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
    from .dlq_output import show_no_letters, show_put_back

    log_to_stderr(None)
    wanted = wanted_of(**chosen)
    with on_ground(bootstrap_server, options) as place:
        name = letters_topic(Admin(place.cluster), topic)
        if isinstance(name, NoLetters):
            show_no_letters(name)
            return
        letters = DeadLetters(place.cluster, name, to=to, run_id=run_id, now=now)
        show_put_back(letters.look(wanted) if dry_run else letters.put_back(wanted), dry_run=dry_run)


def wanted_of(reason: str | None, agent: str | None, offsets: str | None, match: str | None) -> Any:
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
