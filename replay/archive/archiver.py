"""`Archiver`: writes a topic to a folder, each committed record once. The package documents what it promises.

The manifest is the only position; no consumer group is involved. A file is closed, and the manifest replaced, when the
file has reached its size or age, and at the end. Records that were read into an open file when the process dies are
read again.
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
from ...topics.control_records import carries_control, records_of
from ...topics.durable_files import sync_path
from ...topics.errors import Stop, Usage
from ...topics.garbage_collector import seldom_collected
from ...topics.partition_reader import Gone, Reader, Run, stalled
from ...topics.private_folder import private_folder
from ...topics.producer import Headers
from ...topics.topic_partition import TopicPartition
from ..pipeline.pseudonymize import Pseudonyms
from .archive_file_writer import ArchiveFileWriter, is_archive_file
from .manifest import MANIFEST, ArchivedFile, Encoding, Lost, Manifest, locked, read_manifest
from .record_columns import COLUMNS, Change, Content

__all__ = ["ArchiveProgress", "ArchiveReport", "Archiver", "Rolling"]

# Maximum size of the records buffered for all files together.
_WAITING_BYTES = 64 * 1024 * 1024
_NEW_PARTITIONS_S = 30.0
# An open transaction blocks readers until it ends, at the latest by its timeout (a minute by default).
_STALLED_S = 120.0

_logger = logging.getLogger("anabranch.archive")


@dataclass(frozen=True, slots=True)
class Rolling:
    """When a file is closed and the next one is begun.

    Attributes:
        size_bytes: approximate size of a file.
        age_s: seconds since its first record was read; None means no limit.
    """

    size_bytes: int = 128 * 1024 * 1024
    age_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveProgress:
    """Progress of an archiver. `left_offsets` counts up to the end at the start, transaction markers included."""

    records: int
    size_bytes: int
    done_offsets: int
    left_offsets: int
    seconds: float


@dataclass(slots=True, kw_only=True)
class ArchiveReport:
    """The result of an archiver.

    Attributes:
        records, files: added by this start; the manifest has the totals.
        lost: offsets that this start found deleted before they were read.
        resumed: the folder already held an archive of the topic.
        removed: incomplete files of an earlier process, which this start deleted.
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
        encoding: file format of a new archive; an existing archive keeps its own.
        follow: continue at the end of the topic until `stop()`; otherwise stop at the end at the time of the start.
        pseudonyms: fields to replace in each record. An archive keeps its fields and their key.
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
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self._cluster, self._topic, self._folder = cluster, topic, folder
        self._with_control = carries_control(topic)
        self._encoding: Encoding | None = encoding
        self._rolling = rolling or Rolling()
        self._follow = follow
        self._pseudonyms = pseudonyms
        self._admin = Admin(cluster)
        self._stop = threading.Event()
        self._writers: dict[int, ArchiveFileWriter] = {}
        self._positions: dict[int, int] = {}
        # End offset of files and losses. Only transaction markers can follow up to the position; the next file begins
        # here.
        self._covered: dict[int, int] = {}
        self._read = 0

    def stop(self) -> None:
        """Close open files and end. May be called from a signal handler or another thread."""
        self._stop.set()

    def archive(self, on_progress: Callable[[ArchiveProgress], None] | None = None) -> ArchiveReport:
        """Archive the records that are not in the archive yet (blocking).

        Raises:
            Usage: the folder holds something else, or there is no such topic.
            Stop: the disk is full, another process writes to the folder, the topic was recreated, or a record would
                tell a person in spite of its pseudonyms.
        """
        begun_s = clock.now_s()
        try:
            private_folder(self._folder)
            with locked(self._folder), seldom_collected():
                report = self._open()
                self._run(report, begun_s, on_progress)
        except OSError as exc:
            path = exc.filename or self._folder
            raise Stop(
                f"{path}: {exc.strerror or exc}",
                hint="the files in the manifest are complete; the same command resumes",
            ) from exc
        finally:
            for writer in self._writers.values():
                writer.abandon()
        report.seconds = clock.now_s() - begun_s
        return report

    def _open(self) -> ArchiveReport:
        found = self._admin.partitions([self._topic]).get(self._topic)
        if found is None:
            raise self._admin.no_topic(self._topic)
        topic_id = self._admin.topic_ids([self._topic])[self._topic]
        config = self._admin.config(self._topic)
        compacted = "compact" in config.get("cleanup.policy", "")
        manifest = read_manifest(self._folder)
        resumed = manifest is not None
        if manifest is None:
            _refuse_other_files(self._folder)
            manifest = Manifest(
                topic=self._topic,
                topic_id=topic_id,
                encoding=self._encoding or "parquet",
                columns=COLUMNS,
                pseudonyms=self._identity,
                partitions=found,
                created_ms=_now_ms(),
            )
        self._accept(manifest, topic_id)
        self._encoding = manifest.encoding
        manifest.partitions = found
        manifest.compacted |= compacted
        removed = _remove_orphans(self._folder, manifest)
        report = ArchiveReport(manifest=manifest, resumed=resumed, removed=removed)
        self._find_positions(report)
        manifest.updated_ms = _now_ms()
        manifest.write(self._folder)
        return report

    @property
    def _identity(self) -> dict[str, object] | None:
        return None if self._pseudonyms is None else self._pseudonyms.identity()

    def _accept(self, manifest: Manifest, topic_id: str) -> None:
        if manifest.topic != self._topic:
            raise Usage(
                f"{self._folder} holds an archive of {manifest.topic}", hint="use a folder for each topic: --to …"
            )
        if self._encoding not in (None, manifest.encoding):
            raise Usage(f"{self._folder} holds an archive in {manifest.encoding}", hint="it keeps its format")
        if manifest.pseudonyms != self._identity:
            held, given = (_fields_of(each) for each in (manifest.pseudonyms, self._identity))
            raise Usage(
                f"{self._folder} holds an archive {held}, not {given}" + (": the key is another" * (held == given)),
                hint="an archive keeps its fields and their key: use another folder for the others",
            )
        if manifest.topic_id != topic_id:
            raise Stop(
                f"topic {self._topic} was recreated after {self._folder}: its offsets are different",
                hint="archive the new topic into another folder",
            )

    def _find_positions(self, report: ArchiveReport) -> None:
        """Find each partition's position, and record offsets that no longer exist."""
        manifest = report.manifest
        begins, ends = self._admin.spans((self._topic, p) for p in range(manifest.partitions))
        for partition in range(manifest.partitions):
            at = TopicPartition(self._topic, partition)
            begin, end = begins[at], ends[at]
            position = manifest.positions.get(partition)
            if position is None:
                position = manifest.begun[partition] = manifest.positions[partition] = begin
            self._covered[partition] = manifest.covered(partition)
            if position > end:
                raise Stop(
                    f"{self._topic}[{partition}] ends at offset {end:,}, but the archive reaches {position:,}",
                    hint="the broker has lost records that it had confirmed; archive it into another folder",
                )
            if position < begin:
                self._record_lost(report, partition, begin)
                position = begin
            self._positions[partition] = position

    def _record_lost(self, report: ArchiveReport, partition: int, end: int) -> None:
        begin = self._covered[partition]
        lost = Lost(partition=partition, begin=begin, end=end)
        _logger.warning(
            "%s[%d]: offsets %d to %d were deleted before they were read", self._topic, partition, begin, end - 1
        )
        report.lost.append(lost)
        report.manifest.lost.append(lost)
        report.manifest.positions[partition] = self._covered[partition] = end

    def _run(
        self, report: ArchiveReport, begun_s: float, on_progress: Callable[[ArchiveProgress], None] | None
    ) -> None:
        ends = self._ends()
        begins = dict(self._positions)
        reader = self._reader()
        moved_s = checked_s = refreshed_s = begun_s
        try:
            while not self._stop.is_set() and (self._follow or self._left(ends)):
                try:
                    runs = reader.read()
                except Gone as exc:
                    # The records read with it are discarded, so all partitions are read again from their positions.
                    reader.close()
                    self._skip(report, exc.at)
                    reader = self._reader()
                    continue
                now_s = clock.now_s()
                for run in runs:
                    self._take(run, now_s)
                self._roll(report, now_s)
                if runs:
                    moved_s = checked_s = now_s
                elif now_s - checked_s > client_watchdog.HUNG_S:
                    checked_s = now_s
                    if self._left(self._ends()) and client_watchdog.answers(self._cluster):
                        reader.close(hung=True)
                        reader = self._reader()
                    if not self._follow and now_s - moved_s > _STALLED_S:
                        raise stalled(self._left(ends), _STALLED_S)
                if self._follow and now_s - refreshed_s > _NEW_PARTITIONS_S:
                    refreshed_s = now_s
                    reader.add(self._new_partitions(report))
                if on_progress is not None and runs:
                    on_progress(self._progress(begins, ends, now_s - begun_s))
            self._close(report, list(self._positions))
        finally:
            reader.close()

    def _reader(self) -> Reader:
        reader = Reader(self._cluster, gone="error")
        reader.add(
            {TopicPartition(self._topic, partition): position for partition, position in self._positions.items()}
        )
        return reader

    def _ends(self) -> dict[TopicPartition, int]:
        # Includes open transactions: records that were committed a moment ago may not be readable yet.
        return self._admin.spans((self._topic, partition) for partition in self._positions)[1]

    def _left(self, ends: Mapping[TopicPartition, int]) -> list[TopicPartition]:
        return [at for at, end in ends.items() if self._positions[at[1]] < end]

    def _skip(self, report: ArchiveReport, at: TopicPartition) -> None:
        """Resume after records that Kafka deleted while they were being read."""
        partition = at[1]
        self._close(report, [partition])
        begin = self._admin.spans([at])[0][at]
        position = self._positions[partition]
        if begin <= position:
            raise Stop(f"{self._topic}[{partition}] cannot be read at offset {position:,}", hint="see the broker's log")
        self._record_lost(report, partition, begin)
        self._positions[partition] = begin

    def _take(self, run: Run, now_s: float) -> None:
        partition = run.at[1]
        messages = records_of(run.messages) if self._with_control else run.messages
        if messages:
            writer = self._writers.get(partition)
            if writer is None:
                begin = self._covered[partition]
                assert self._encoding is not None
                writer = ArchiveFileWriter(self._folder, self._encoding, self._topic, partition, begin, now_s)
                self._writers[partition] = writer
            writer.take(messages, self._change_of(run.at))
            self._read += len(messages)
        self._positions[partition] = run.position

    def _change_of(self, at: TopicPartition) -> Change | None:
        pseudonyms = self._pseudonyms
        if pseudonyms is None:
            return None

        def change(offset: int, key: bytes | None, value: bytes | None, headers: Headers | None) -> Content:
            try:
                return pseudonyms.replaced(key, value, headers)
            except (ValueError, TypeError, RecursionError) as exc:
                raise Stop(
                    f"--pseudonym: {at[0]}[{at[1]}]@{offset}: {exc}",
                    hint="an archive leaves no record out; `anabranch replay topic://… --pseudonym … --on-bad-line …` "
                    "makes a copy of the topic without such records, to archive",
                ) from None

        return change

    def _roll(self, report: ArchiveReport, now_s: float) -> None:
        rolling = self._rolling
        if sum(writer.waiting.size_bytes for writer in self._writers.values()) > _WAITING_BYTES:
            max(self._writers.values(), key=lambda writer: writer.waiting.size_bytes).flush()
        due = [
            partition
            for partition, writer in self._writers.items()
            if writer.size_bytes >= rolling.size_bytes
            or (rolling.age_s is not None and now_s - writer.opened_s >= rolling.age_s)
        ]
        if due:
            self._close(report, due)

    def _close(self, report: ArchiveReport, partitions: list[int]) -> None:
        """Rename the finished files, then write the manifest that names them."""
        entries: list[ArchivedFile] = []
        for partition in partitions:
            writer = self._writers.get(partition)
            if writer is not None:
                entries.append(writer.finish(self._positions[partition]))
                self._covered[partition] = entries[-1].end
                del self._writers[partition]
        if entries:
            sync_path(self._folder)
        manifest = report.manifest
        for partition in partitions:
            manifest.positions[partition] = self._positions[partition]
        manifest.files += entries
        manifest.updated_ms = _now_ms()
        manifest.write(self._folder)
        report.files += len(entries)
        report.records += sum(entry.records for entry in entries)

    def _new_partitions(self, report: ArchiveReport) -> dict[TopicPartition, int]:
        found = self._admin.partitions([self._topic]).get(self._topic, 0)
        new = range(report.manifest.partitions, found)
        if new:
            report.manifest.partitions = found
            begins = self._admin.spans((self._topic, partition) for partition in new)[0]
            for (_, partition), begin in begins.items():
                report.manifest.begun[partition] = report.manifest.positions[partition] = begin
                self._positions[partition] = self._covered[partition] = begin
        return {TopicPartition(self._topic, partition): self._positions[partition] for partition in new}

    def _progress(
        self, begins: Mapping[int, int], ends: Mapping[TopicPartition, int], seconds: float
    ) -> ArchiveProgress:
        return ArchiveProgress(
            records=self._read,
            size_bytes=sum(writer.size_bytes for writer in self._writers.values()),
            done_offsets=sum(self._positions[p] - begin for p, begin in begins.items()),
            left_offsets=sum(max(0, end - self._positions[at[1]]) for at, end in ends.items()),
            seconds=seconds,
        )


def _fields_of(pseudonyms: Mapping[str, object] | None) -> str:
    return "without pseudonyms" if pseudonyms is None else f"with pseudonyms of {pseudonyms['pseudonyms']}"


def _refuse_other_files(folder: Path) -> None:
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    # The manifest is written before the first file, so these are no leftovers of a process that was killed.
    if kept := list(filter(is_archive_file, others)):
        raise Usage(
            f"{folder} holds files of an archive, such as {kept[0]}, but no {MANIFEST}",
            hint="restore the manifest from a copy of the archive, or archive the topic into another folder",
        )
    if others:
        raise Usage(
            f"{folder} is neither empty nor an archive: it holds {', '.join(others[:3])}",
            hint="an archive needs a folder of its own",
        )


def _remove_orphans(folder: Path, manifest: Manifest) -> list[str]:
    """Delete files that an earlier process wrote and the manifest does not name; return their names."""
    named = {entry.name for entry in manifest.files}
    orphans = [path for path in folder.iterdir() if is_archive_file(path.name) and path.name not in named]
    for path in orphans:
        path.unlink()
    return sorted(path.name for path in orphans)


def _now_ms() -> int:
    return clock.now_ms()
