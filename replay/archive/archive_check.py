"""Checks an archive: all files present, every byte unchanged, no offsets missing between files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...topics.errors import Usage
from .manifest import ArchivedFile, Manifest, read_manifest

__all__ = ["Finding", "check_archive", "check_offsets"]

_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """A defect of an archive.

    Attributes:
        kind: `changed` or `missing` file, `gap` between files, `overlap` of files, or `lost`: Kafka deleted records
            before they were read, which the manifest has recorded.
        position: file, or topic and partition.
    """

    kind: str
    position: str
    text: str


def check_archive(folder: Path) -> tuple[Manifest, list[Finding]]:
    """Read every byte of an archive and compare it with the manifest.

    Raises:
        Usage: the folder is not an archive.
        Stop: the manifest itself is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise Usage(f"{folder} is not an archive: it has no manifest.json", hint="anabranch archive TOPIC --to FOLDER")
    findings = [finding for entry in manifest.files for finding in _check_file(folder, entry)]
    for partition in range(manifest.partitions):
        findings += check_offsets(manifest, partition)
    return manifest, findings


def _check_file(folder: Path, entry: ArchivedFile) -> Iterator[Finding]:
    path, digest, size = folder / entry.name, hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while data := file.read(_CHUNK_BYTES):
                digest.update(data)
                size += len(data)
    except OSError as exc:
        yield Finding("missing", entry.name, exc.strerror or str(exc))
        return
    if size != entry.size_bytes:
        yield Finding("changed", entry.name, f"{size:,} bytes instead of {entry.size_bytes:,}")
    elif digest.hexdigest() != entry.sha256:
        yield Finding("changed", entry.name, "its SHA-256 differs")


def check_offsets(manifest: Manifest, partition: int) -> Iterator[Finding]:
    """Yield the defects in the offsets of a partition, from the manifest alone."""
    position = f"{manifest.topic}[{partition}]"
    files = [(entry.begin, entry.end) for entry in manifest.of(partition)]
    lost = [(lost.begin, lost.end) for lost in manifest.lost if lost.partition == partition]
    for begin, end in lost:
        yield Finding("lost", position, f"offsets {begin:,} to {end - 1:,} were deleted before they were read")
    at = manifest.begun.get(partition, 0)
    for begin, end in sorted(files + lost):
        if begin > at:
            yield Finding("gap", position, f"offsets {at:,} to {begin - 1:,} are in no file")
        elif begin < at:
            yield Finding("overlap", position, f"offsets {begin:,} to {at - 1:,} are in two files")
        at = max(at, end)
    if at > manifest.positions.get(partition, at):
        yield Finding("gap", position, f"files reach to {at:,}, the position is {manifest.positions[partition]:,}")
