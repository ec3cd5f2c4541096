"""A topic into a folder, each committed record once; see the package for the promise, and `manifest` for the form.

Only the manifest says where to go on; no consumer group is involved. A file is closed, and the manifest replaced, when
it has reached its size or its age, and at the end. What was read and not closed when the process dies is read again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...topics import client_watchdog, clock
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.control import carries_control, records_of
from ...topics.errors import Stop, Usage
from ...topics.garbage_collector import seldom_collected
from ...topics.partition_reader import Gone, Key, Reader, Run, stalled
from ...topics.private_folder import private_folder
from .archive_file_writer import ArchiveFileWriter, is_ours
from .manifest import Encoding, Entry, Lost, Manifest, locked, read_manifest, sync_folder
from .record_columns import COLUMNS

__all__ = ["ArchiveProgress", "ArchiveReport", "Archiver", "Rolling"]

# What waits to be written in all files together.
_WAITING_BYTES = 64 * 1024 * 1024
_NEW_PARTITIONS_S = 30.0
# An open transaction holds readers back until it ends, at the latest by its timeout (a minute unless asked otherwise).
_STALLED_S = 120.0

_logger = logging.getLogger("anabranch.archive")


@dataclass(frozen=True, slots=True)
class Rolling:
    """When a file is closed and the next begun.

    Attributes:
        size_bytes: of one file, about.
        age_s: since its first record was read; None for never.
    """

    size_bytes: int = 128 * 1024 * 1024
    age_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveProgress:
    """How far it is. `left_offsets` to the end as it stood at the start, transaction markers counted."""

    records: int
    size_bytes: int
    done_offsets: int
    left_offsets: int
    seconds: float


@dataclass(slots=True, kw_only=True)
class ArchiveReport:
    """What an archiver did.

    Attributes:
        records, files: added by this start; the manifest has those of all.
        lost: what this start found deleted before it was read.
        resumed: the folder held an archive of the topic already.
        removed: files of a predecessor that died before it named them.
    """

    manifest: Manifest
    records: int = 0
    files: int = 0
    seconds: float = 0.0
    resumed: bool = False
    removed: list[str] = field(default_factory=list[str])
    lost: list[Lost] = field(default_factory=list[Lost])


class Archiver:
    """Archives a topic.

    Args:
        encoding: of a new archive; an existing one keeps its own.
        follow: go on at the end, until `stop()`; otherwise it ends at the end as it stood at the start.
    """

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        folder: Path,
        *,
        encoding: Encoding | None = None,
        rolling: Rolling | None = None,
        follow: bool = False,
    ) -> None:
        self._cluster, self._topic, self._folder = cluster, topic, folder
        self._with_control = carries_control(topic)
        self._encoding: Encoding | None = encoding
        self._rolling = rolling or Rolling()
        self._follow = follow
        self._admin = Admin(cluster)
        self._stop = threading.Event()
        self._growing: dict[int, ArchiveFileWriter] = {}
        self._positions: dict[int, int] = {}
        # To where files and losses reach. Behind it there may be transaction markers only; the next file begins here.
        self._covered: dict[int, int] = {}
        self._read = 0

    def stop(self) -> None:
        """Close what is open and end; may be called from a signal handler or another thread."""
        self._stop.set()

    def archive(self, on_progress: Callable[[ArchiveProgress], None] | None = None) -> ArchiveReport:
        """Read what is not in the archive yet (blocking).

        Raises:
            Usage: the folder holds something else, there is no such topic.
            Stop: the disk is full, another process writes here, the topic was made anew.
        """
        begun_s = clock.now_s()
        try:
            private_folder(self._folder)
            with locked(self._folder), seldom_collected():
                report = self._open()
                self._go_on(report, begun_s, on_progress)
        except OSError as exc:
            where = exc.filename or self._folder
            raise Stop(
                f"{where}: {exc.strerror or exc}", hint="what the manifest names is whole; the same command goes on"
            ) from exc
        finally:
            for growing in self._growing.values():
                growing.abandon()
        report.seconds = clock.now_s() - begun_s
        return report

    def _open(self) -> ArchiveReport:
        found = self._admin.partitions([self._topic]).get(self._topic)
        if found is None:
            raise Usage(f"there is no topic {self._topic} on {self._cluster.bootstrap_servers}")
        topic_id = self._admin.topic_ids([self._topic])[self._topic]
        config = self._admin.config(self._topic)
        compacted = "compact" in config.get("cleanup.policy", "")
        manifest = read_manifest(self._folder)
        resumed = manifest is not None
        if manifest is None:
            _refuse_foreign(self._folder)
            manifest = Manifest(
                topic=self._topic,
                topic_id=topic_id,
                encoding=self._encoding or "parquet",
                columns=COLUMNS,
                partitions=found,
                created_ms=_now_ms(),
            )
        self._accept(manifest, topic_id)
        self._encoding = manifest.encoding
        manifest.partitions = found
        manifest.compacted |= compacted
        removed = _remove_orphans(self._folder, manifest)
        report = ArchiveReport(manifest=manifest, resumed=resumed, removed=removed)
        self._place(report)
        manifest.updated_ms = _now_ms()
        manifest.write(self._folder)
        return report

    def _accept(self, manifest: Manifest, topic_id: str) -> None:
        if manifest.topic != self._topic:
            raise Usage(f"{self._folder} holds an archive of {manifest.topic}", hint="a folder for each topic: --to …")
        if self._encoding not in (None, manifest.encoding):
            raise Usage(f"{self._folder} holds an archive in {manifest.encoding}", hint="it keeps its format")
        if manifest.topic_id != topic_id:
            raise Stop(
                f"topic {self._topic} was made anew since {self._folder} was begun: its offsets are others",
                hint="archive the new topic into another folder",
            )

    def _place(self, report: ArchiveReport) -> None:
        """Find each partition's position, and note what is no longer there."""
        manifest = report.manifest
        begins, ends = self._admin.spans((self._topic, p) for p in range(manifest.partitions))
        for partition in range(manifest.partitions):
            begin, end = begins[self._topic, partition], ends[self._topic, partition]
            position = manifest.positions.get(partition)
            if position is None:
                position = manifest.begun[partition] = manifest.positions[partition] = begin
            self._covered[partition] = manifest.covered(partition)
            if position > end:
                raise Stop(
                    f"{self._topic}[{partition}] ends at offset {end:,}, and the archive has come to {position:,}",
                    hint="the broker has lost records that it had confirmed; archive it into another folder",
                )
            if position < begin:
                self._note_lost(report, partition, begin)
                position = begin
            self._positions[partition] = position

    def _note_lost(self, report: ArchiveReport, partition: int, end: int) -> None:
        begin = self._covered[partition]
        lost = Lost(partition=partition, begin=begin, end=end)
        _logger.warning(
            "%s[%d]: offsets %d to %d were deleted before they were read", self._topic, partition, begin, end - 1
        )
        report.lost.append(lost)
        report.manifest.lost.append(lost)
        report.manifest.positions[partition] = self._covered[partition] = end

    def _go_on(
        self, report: ArchiveReport, begun_s: float, on_progress: Callable[[ArchiveProgress], None] | None
    ) -> None:
        ends = self._ends()
        begins = dict(self._positions)
        reader = self._reader()
        moved_s = asked_s = looked_s = begun_s
        try:
            while not self._stop.is_set() and (self._follow or self._left(ends)):
                try:
                    runs = reader.read()
                except Gone as exc:
                    # What came with it is forgotten, so everything is read on from the positions.
                    reader.close()
                    self._skip(report, exc.at)
                    reader = self._reader()
                    continue
                now_s = clock.now_s()
                for run in runs:
                    self._take(run, now_s)
                self._roll(report, now_s)
                if runs:
                    moved_s = asked_s = now_s
                elif now_s - asked_s > client_watchdog.HUNG_S:
                    asked_s = now_s
                    if self._left(self._ends()) and client_watchdog.answers(self._cluster):
                        reader.close(hung=True)
                        reader = self._reader()
                    if not self._follow and now_s - moved_s > _STALLED_S:
                        raise stalled(self._left(ends), _STALLED_S)
                if self._follow and now_s - looked_s > _NEW_PARTITIONS_S:
                    looked_s = now_s
                    reader.add(self._new_partitions(report))
                if on_progress is not None and runs:
                    on_progress(self._progress(begins, ends, now_s - begun_s))
            self._close(report, list(self._positions))
        finally:
            reader.close()

    def _reader(self) -> Reader:
        reader = Reader(self._cluster, gone="error")
        reader.add({(self._topic, partition): position for partition, position in self._positions.items()})
        return reader

    def _ends(self) -> dict[Key, int]:
        # With open transactions: what was committed a moment ago may not be readable yet.
        return self._admin.spans((self._topic, partition) for partition in self._positions)[1]

    def _left(self, ends: Mapping[Key, int]) -> list[Key]:
        return [at for at, end in ends.items() if self._positions[at[1]] < end]

    def _skip(self, report: ArchiveReport, at: Key) -> None:
        """Go on behind what Kafka has deleted under our eyes."""
        partition = at[1]
        self._close(report, [partition])
        begin = self._admin.spans([at])[0][at]
        position = self._positions[partition]
        if begin <= position:
            raise Stop(f"{self._topic}[{partition}] cannot be read at offset {position:,}", hint="see the broker's log")
        self._note_lost(report, partition, begin)
        self._positions[partition] = begin

    def _take(self, run: Run, now_s: float) -> None:
        partition = run.at[1]
        messages = records_of(run.messages) if self._with_control else run.messages
        if messages:
            growing = self._growing.get(partition)
            if growing is None:
                begin = self._covered[partition]
                assert self._encoding is not None
                growing = ArchiveFileWriter(self._folder, self._encoding, self._topic, partition, begin, now_s)
                self._growing[partition] = growing
            growing.take(messages)
            self._read += len(messages)
        self._positions[partition] = run.position

    def _roll(self, report: ArchiveReport, now_s: float) -> None:
        rolling = self._rolling
        if sum(growing.waiting.size_bytes for growing in self._growing.values()) > _WAITING_BYTES:
            max(self._growing.values(), key=lambda growing: growing.waiting.size_bytes).flush()
        due = [
            partition
            for partition, growing in self._growing.items()
            if growing.size_bytes >= rolling.size_bytes
            or (rolling.age_s is not None and now_s - growing.opened_s >= rolling.age_s)
        ]
        if due:
            self._close(report, due)

    def _close(self, report: ArchiveReport, partitions: list[int]) -> None:
        """Files get their names, then the manifest names them."""
        entries: list[Entry] = []
        for partition in partitions:
            growing = self._growing.get(partition)
            if growing is not None:
                entries.append(growing.finish(self._positions[partition]))
                self._covered[partition] = entries[-1].end
                del self._growing[partition]
        if entries:
            sync_folder(self._folder)
        manifest = report.manifest
        for partition in partitions:
            manifest.positions[partition] = self._positions[partition]
        manifest.files += entries
        manifest.updated_ms = _now_ms()
        manifest.write(self._folder)
        report.files += len(entries)
        report.records += sum(entry.records for entry in entries)

    def _new_partitions(self, report: ArchiveReport) -> dict[Key, int]:
        found = self._admin.partitions([self._topic]).get(self._topic, 0)
        new = range(report.manifest.partitions, found)
        if new:
            report.manifest.partitions = found
            begins = self._admin.spans((self._topic, partition) for partition in new)[0]
            for (_, partition), begin in begins.items():
                report.manifest.begun[partition] = report.manifest.positions[partition] = begin
                self._positions[partition] = self._covered[partition] = begin
        return {(self._topic, partition): self._positions[partition] for partition in new}

    def _progress(self, begins: Mapping[int, int], ends: Mapping[Key, int], seconds: float) -> ArchiveProgress:
        return ArchiveProgress(
            records=self._read,
            size_bytes=sum(growing.size_bytes for growing in self._growing.values()),
            done_offsets=sum(self._positions[p] - begin for p, begin in begins.items()),
            left_offsets=sum(max(0, end - self._positions[at[1]]) for at, end in ends.items()),
            seconds=seconds,
        )


def _refuse_foreign(folder: Path) -> None:
    others = [path.name for path in folder.iterdir() if not path.name.startswith(".") and not is_ours(path.name)]
    if others:
        raise Usage(
            f"{folder} is neither empty nor an archive: it holds {', '.join(sorted(others)[:3])}",
            hint="an archive has a folder of its own",
        )


def _remove_orphans(folder: Path, manifest: Manifest) -> list[str]:
    """Remove what a predecessor wrote and did not come to name."""
    named = {entry.name for entry in manifest.files}
    orphans = [path for path in folder.iterdir() if is_ours(path.name) and path.name not in named]
    for path in orphans:
        path.unlink()
    return sorted(path.name for path in orphans)


def _now_ms() -> int:
    return clock.now_ms()
