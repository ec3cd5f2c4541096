"""Archives: a topic stored in a folder, once or continuously; checked, and replayed unchanged.

    FOLDER/manifest.json                            the content and the only position of the archive (see `manifest`)
    FOLDER/00003-00000000000000012345.parquet       records of partition 3 from offset 12345 on (see `record_columns`)
    FOLDER/.lock                                    held by the process that writes

A file is complete or absent: it is written under a temporary name, synced, renamed, and only then named by the
manifest, which is replaced in the same way. If the process dies in between, the manifest names only complete files; the
next start removes the others and resumes at the manifest's positions. So each committed record is in the archive
exactly once.
"""

from .archive_check import Finding, check_archive
from .archive_source import ArchiveHistory
from .archiver import Archiver, ArchiveReport, Rolling
from .manifest import Manifest, is_archive

__all__ = [
    "ArchiveHistory",
    "ArchiveReport",
    "Archiver",
    "Finding",
    "Manifest",
    "Rolling",
    "check_archive",
    "is_archive",
]
