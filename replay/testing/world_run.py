"""A bounded run inside of a world: history through an app of its own, to its end, as `anabranch run` does.

The run has its own group, topics and tables, so nothing is added to those of the world's workers. Its workers run in
the world's event loop instead of processes of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...agents.engine.protocols import topics_read
from ...agents.runtime import runtime_of
from ...topics.dead_letter import dead_letter_topic
from ...topics.errors import Usage
from ...topics.spelling import did_you_mean
from ...topics.topic_partition import TopicPartition
from ..replay_report import Report
from ..runs.aligned_inputs import aligned_phases, ends_of_partitions, refuse_global_tables, refuse_uneven
from ..runs.inputs import Input
from ..runs.inputs_with_windows import refuse_open_windows, refuse_windows, time_rows, topics_with_end
from ..sources.format import Format
from .app_source import AppSource, run_named
from .environment import Environment
from .stillness import Stillness
from .topic_content import RejectedRecord, TopicContent, content_of, dead_letters_of
from .worker_life import WorkerLife
from .world_replay import ReplayOptions, play
from .world_tables import merged_table

if TYPE_CHECKING:
    from ...agents.app import App

__all__ = ["WorldRun", "run_bounded"]

_SETTLED_S = 3600.0


@dataclass(frozen=True, slots=True)
class WorldRun:
    """The result of a bounded run.

    Attributes:
        tables: table -> its content, as plain Python.
        topics: topic -> its records, for the topics that the app reads and writes; by the names in the program.
        dead_letters: topic -> its dead letters, for topics that have any.
        replays: input topic -> what `anabranch replay` reports.
    """

    tables: dict[str, dict[Any, Any]] = field(default_factory=dict[str, dict[Any, Any]])
    topics: dict[str, TopicContent] = field(default_factory=dict[str, TopicContent])
    dead_letters: dict[str, list[RejectedRecord]] = field(default_factory=dict[str, list[RejectedRecord]])
    replays: dict[str, Report] = field(default_factory=dict[str, Report])


def run_bounded(
    environment: Environment,
    source: AppSource,
    folder: Path,
    run_id: str,
    inputs: Mapping[str, Sequence[str]],
    options: ReplayOptions,
    *,
    workers: int,
    prepare: Callable[[App], None],
) -> WorldRun:
    """Replay inputs into the topics of a run, process them and return the result (blocking, in virtual time).

    Args:
        folder: for the workers' data.
        inputs: topic of the program -> files.

    Raises:
        Usage: the app reads no such topic.
        AnabranchError: a worker has ended with this error.
        TimeoutError: something is not processed within an hour of virtual time.
    """
    aligned, complete = dict[int, list[str]](), options.pop("complete", False)
    all_sent, ends = threading.Event(), dict[TopicPartition, int]()
    lives: list[WorkerLife] = []
    try:
        for index in range(workers):
            with environment.loading(), run_named(run_id, complete=complete):
                app = source.load().app
                prepare(app)
                runtime = runtime_of(app)
                runtime.history_complete, runtime.history_ends = all_sent, ends
                aligned = _aligned(app, inputs, options)
                runtime.aligned = list(aligned.values())
                runtime.change_settings(notice_ends=True)
                name = f"worker {index} of run {run_id}"
                lives.append(WorkerLife(environment, app, name, folder / str(index)))
                lives[-1].start()
        runtime = lives[0].runtime
        result, stillness = WorldRun(), Stillness(environment, lambda: lives)

        def work(seconds: float) -> None:
            environment.run_until(lambda: stillness.failed, environment.clock.now_s() + seconds)

        read = _topics_read(lives[0].app)
        with_end, counts = topics_with_end(lives[0].app), dict[str, int]()
        refuse_windows(lives[0].app, list(map(runtime.resolve_topic, inputs)))
        for topic, specs in inputs.items():
            if topic not in read:
                raise Usage(f"app {runtime.app_id} reads no topic {topic!r}", hint=did_you_mean(topic, read))
            name = runtime.resolve_topic(topic)
            with environment.entered():
                spec = runtime.provisioner.spec_of(runtime.described[name], name)
                if name not in environment.kafka.topics:
                    environment.create_topic(spec, runtime.described[name].partitioner)
                cluster, last = environment.kafka.cluster(), name in with_end
                report = play(cluster, specs, name, options, work=work, ends_input=last, value_type=read[topic])
            result.replays[topic] = report
            counts[name] = len(environment.kafka.topics[name].logs)
            ends.update({TopicPartition(name, partition): end for partition, end in report.end_offsets.items()})
        refuse_uneven(aligned, counts)
        ends.update(ends_of_partitions(aligned.get(0, ()), counts, ends))
        all_sent.set()
        deadline_s = environment.clock.now_s() + _SETTLED_S
        environment.run_until(lambda: stillness.failed or stillness.is_settled(), deadline_s)
        for life in lives:
            if life.error is not None:
                raise life.error
        if left := list(stillness.unsettled()):
            raise TimeoutError(f"run {run_id} is not processed: {'; '.join(left)}")
        with environment.entered():
            refuse_open_windows(lives[0].app, time_rows(environment.kafka.cluster(), lives[0].app))
        with environment.loading():
            _collect(result, environment, [life.app for life in lives])
        return result
    finally:
        for life in lives:
            life.close()


def _aligned(app: App, inputs: Mapping[str, Sequence[str]], options: ReplayOptions) -> dict[int, list[str]]:
    """Return the topics that are aligned by event time, in the order in which the program declares them."""
    runtime, given = runtime_of(app), [Input(topic, tuple(specs), Format()) for topic, specs in inputs.items()]
    by_time = options.get("time") is not None
    packed = options.get("pack") is not None
    found = aligned_phases(given, list(inputs), [by_time] * len(given), by_time=by_time, packed=packed)
    refuse_global_tables(runtime.tables, found)
    declared = [name for name in runtime.described if name in set(map(runtime.resolve_topic, inputs))]
    return dict.fromkeys(found, declared)


def _topics_read(app: App) -> dict[str, object]:
    """Return the topics that agents read, by the names in the program, and the types of their values."""
    prefix = f"{app.conf.id}-"
    return {
        name.removeprefix(prefix): agent.channel.value_type
        for agent in app.agents.values()
        for name in topics_read(agent)
        if not agent.channel.has_prefix
    }


def _collect(result: WorldRun, environment: Environment, apps: list[App]) -> None:
    stored, runtime = environment.kafka.topics, runtime_of(apps[0])
    for table in runtime.tables:
        result.tables[table.name] = merged_table(apps, table.name)
    for name, declared in runtime.described.items():
        if not declared.has_prefix:
            short = name.removeprefix(f"{apps[0].conf.id}-")
            result.topics[short] = content_of(short, stored.get(name), declared)
            if letters := dead_letters_of(stored.get(dead_letter_topic(name)), declared):
                result.dead_letters[short] = letters
