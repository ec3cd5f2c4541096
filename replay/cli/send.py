"""`anabranch send`: send records to a topic, from the command line or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import TextIOWrapper
from typing import TYPE_CHECKING, NamedTuple

import click

from ...topics.errors import Stop, Usage, described
from ...topics.private_texts import shown_key, shown_text
from .common_options import choose_cluster, cluster_options, named_app, show_private_option
from .completion import complete_topics
from .console import counted
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ...agents.app import App
    from ...agents.topic import Topic
    from ...topics.cluster import Cluster
    from ...topics.message import Message

__all__ = ["named_topic", "send"]

_FLUSH_S = 30.0
_QUEUED = 10_000

# Arguments and lines that are no UTF-8 are sent byte for byte.
_BYTES = "surrogateescape"

_EARLIER = "the lines before it have been sent"


class Pair(NamedTuple):
    """Key and value of a record, and the number of its line in standard input; 0 if it is not from there."""

    key: str | None
    value: str | None
    line: int = 0


@click.command()
@click.argument("topic", shell_complete=complete_topics)
@click.argument("key", required=False)
@click.argument("value", required=False)
@click.option("-K", "--key-before", metavar="C", help="Standard input: the key is the part of the line before C.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME=VALUE", help="Header; repeatable.")
@click.option("-p", "--partition", type=click.IntRange(0), help="Partition.  [default: chosen by the key]")
@click.option("-Z", "--null", is_flag=True, help="Send a null value, which deletes the key (a tombstone).")
@click.option("--create", is_flag=True, help="Create the topic if it does not exist, although no app declares it.")
@click.option("--partitions", type=click.IntRange(1), default=1, show_default=True, help="Partitions with --create.")
@show_private_option
@cluster_options
@click.pass_context
def send(
    context: click.Context,
    topic: str,
    key: str | None,
    value: str | None,
    key_before: str | None,
    headers: tuple[str, ...],
    partition: int | None,
    null: bool,
    create: bool,
    partitions: int,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Send a record to TOPIC; without VALUE, send each line of standard input.

    With -A, a topic that the app declares is created as declared if it does not exist, and values that the app could
    not decode are refused. The first line of standard input that is refused ends the command, and is named; the lines
    before it have been sent. KEY and VALUE are sent as they are given, in UTF-8.

    \b
    Examples:
      anabranch -A shop send orders ann '{"user": "ann", "amount": 3}'
      anabranch -A shop send orders < orders.jsonl
      printf 'ann:{"amount": 3}\\n' | anabranch send orders -K :
      anabranch send -Z totals ann
      anabranch send events - '{"n": 1}' --create        (a key of - means no key)
    """
    log_to_stderr(None)
    pairs = _pairs(key, value, key_before, null)
    named = _headers(headers)
    app = named_app(context)
    with choose_cluster(bootstrap_server, options, app) as choice:
        declared = None
        if app is not None:
            app.cluster = choice.cluster
            declared = app.described.get(topic)
        spec_partitions = partitions if create else 0
        named_topic(choice.cluster, topic, None if app is None else app.app, create_partitions=spec_partitions)
        _produce(choice.cluster, topic, pairs, declared, named, partition)


def named_topic(cluster: Cluster, topic: str, app: App | None, *, create_partitions: int = 0) -> int:
    """Return the number of partitions of a topic that a user names (blocking); creates it if the app declares it.

    Args:
        create_partitions: number of partitions to create another topic with; 0 does not create it.

    Raises:
        Usage: there is no such topic; the hint names the most similar one.
    """
    import asyncio

    from ...topics.admin import Admin, TopicSpec
    from ..app_loader import runtime_of

    admin = Admin(cluster)
    counts = admin.partitions()
    if topic in counts:
        return counts[topic]
    declared = {} if app is None else runtime_of(app).described
    if app is not None and topic in declared:
        asyncio.run(runtime_of(app).provisioner.declare([declared[topic]]))
    elif create_partitions:
        admin.create([TopicSpec(topic, create_partitions)])
    else:
        raise admin.no_topic(topic, declared, hint="--create makes it; -A APP makes it as the app declares it")
    return admin.partitions([topic]).get(topic, 0)


def _pairs(key: str | None, value: str | None, key_before: str | None, null: bool) -> Iterator[Pair]:
    if null:
        if key is None or value is not None:
            raise Usage("--null takes a key and no value", hint="anabranch send --null TOPIC KEY")
        return iter([Pair(key, None)])
    if value is not None:
        return iter([Pair(None if key == "-" else key, value)])
    if key is not None:
        raise Usage(
            f"no value for key {key}", hint="anabranch send TOPIC KEY VALUE; a key of - sends a record without a key"
        )
    return _lines(key_before)


def _lines(key_before: str | None) -> Iterator[Pair]:
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors=_BYTES, newline="\n")
    for number, line in enumerate(sys.stdin or (), 1):
        text = line.removesuffix("\n").removesuffix("\r")
        if not text:
            continue
        if key_before is None:
            yield Pair(None, text, number)
            continue
        key, found, value = text.partition(key_before)
        if not found:
            raise Usage(f"line {number} has no {key_before!r}: {shown_text(text[:80])}", hint=_EARLIER)
        yield Pair(key, value, number)


def _headers(given: tuple[str, ...]) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for header in given:
        name, equals, text = header.partition("=")
        if not equals or not name:
            raise Usage(f"--header {header}: expected NAME=VALUE")
        if not name.isprintable():
            raise Usage(f"--header {header}: a name that cannot be printed")
        found.append((name, text.encode(errors=_BYTES)))
    return found


def _produce(
    cluster: Cluster,
    topic: str,
    pairs: Iterator[Pair],
    declared: Topic | None,
    headers: list[tuple[str, bytes]],
    partition: int | None,
) -> None:
    from ...topics.partitioner_registry import PartitionerRegistry

    partitioner = PartitionerRegistry(cluster).of([topic]).get(topic)
    producer = cluster.producer()
    places: list[tuple[int, int]] = []
    failed: list[object] = []
    sent = 0

    def reported(error: object, message: Message) -> None:
        if error is not None:
            failed.append(error)
        elif len(places) < 2:
            places.append((message.partition() or 0, message.offset() or 0))

    try:
        for key, value, line in pairs:
            raw_key, raw = (None if text is None else text.encode(errors=_BYTES) for text in (key, value))
            if declared is not None:
                _check(declared, raw_key, raw, line)
            place = -1 if partition is None else partition
            if place < 0 and partitioner is not None and raw_key is not None:
                place = partitioner.partition(raw_key)
            producer.produce(topic, raw, raw_key, place, reported, headers=list(headers))
            sent += 1
            producer.poll(0)
            if not sent % _QUEUED:
                producer.flush(_FLUSH_S)
    finally:
        left = producer.flush(_FLUSH_S)
    if failed or left:
        why = str(failed[0]) if failed else f"no answer within {_FLUSH_S:.0f} s"
        raise Stop(f"{counted(len(failed) + left, 'record')} of {sent:,} not sent to {topic}: {why}")
    if sent == 1 and places:
        click.echo(f"sent to {topic}[{places[0][0]}] offset {places[0][1]:,}")
    else:
        click.echo(f"sent {counted(sent, 'record')} to {topic}")


def _check(topic: Topic, key: bytes | None, value: bytes | None, line: int) -> None:
    """Refuse what an agent of the topic could not decode."""
    for what, raw, decode in (("key", key, topic.decode_key), ("value", value, topic.decode_value)):
        if raw is None:
            continue
        try:
            decode(raw)
        except Exception as exc:  # codecs may run the user's code
            kind = topic.key_type if what == "key" else topic.value_type
            wanted = getattr(kind, "__name__", "JSON" if kind is None else kind)
            what = f"line {line}: the {what}" if line else f"the {what}"
            shown = shown_key(raw.decode(errors="replace")[:80])
            raise Usage(
                f"{what} {shown} is not {wanted}, as {topic.get_topic_name()} declares: {described(exc)}",
                hint=_EARLIER if line else "without -A it is sent unchecked; text in JSON is in double quotes",
            ) from exc
