"""A topic in a folder: written once or following it, checked, and replayed as it was.

    FOLDER/manifest.json                            what the archive holds; the only position (see `manifest`)
    FOLDER/00003-00000000000000012345.parquet       records of partition 3 from offset 12345 on (see `envelope`)
    FOLDER/.lock                                    held by the one who writes

Files are whole or not there: written beside, synced, renamed, and only then named by the manifest, which is replaced in
the same way. Whatever dies in between, the manifest names files that are complete, and the next start removes the rest
and goes on at the manifest's positions; so each committed record stands in the archive once.
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
