"""Resolves what a user names as history: files, a socket, an archive's folder, or a topic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from ..topics.cluster import Cluster
from ..topics.errors import Usage
from .archive import ArchiveHistory, is_archive
from .sources.file_history import find_history
from .sources.format import Format
from .sources.source import Replayable
from .sources.topic_source import SCHEME, TopicHistory

__all__ = ["names_topic", "resolve_source"]


def names_topic(spec: str) -> bool:
    """Return whether a spec names a topic, which needs a cluster."""
    return spec.startswith(SCHEME)


def resolve_source(
    specs: Sequence[str],
    format: Format,
    *,
    cluster: Cluster | None = None,
    follow: bool = False,
    bounds: tuple[str | None, str | None] = (None, None),
    by_partition: bool = False,
    repartition: bool = False,
    spool: str | None = None,
) -> Replayable:
    """Find the history that `specs` name, and check that the options fit it.

    Args:
        cluster: the cluster of a topic.
        follow: of a topic or a socket: read without end.
        bounds: of a topic: `--from` and `--until`, see `offset_range`.
        by_partition: of a topic: read one partition after another.
        repartition: of an archive or a topic: place records by their keys' hashes.
        spool: of a socket: path of the file that stores its lines.

    Raises:
        Usage: something does not exist, or an option does not fit.
        Stop: something cannot be opened.
    """
    topics = list(filter(names_topic, specs))
    archives = [spec for spec in specs if spec not in topics and is_archive(Path(spec))]
    if (topics or archives) and spool is not None:
        raise Usage("--spool applies to tcp://host:port only; other sources can be read again")
    if (topics or archives) and len(specs) > 1:
        raise Usage(
            f"{(topics or archives)[0]} cannot be combined with other sources",
            hint="replay each topic or archive separately",
        )
    if topics:
        if cluster is None:
            raise Usage(f"{topics[0]}: no broker is running", hint="--bootstrap-server HOST:PORT")
        given = {name: text for name, text in zip(("from", "until"), bounds, strict=True) if text is not None}
        spec = topics[0] + (("&" if "?" in topics[0] else "?") + urlencode(given) if given else "")
        return TopicHistory(cluster, spec, format, follow=follow, by_partition=by_partition, repartition=repartition)
    if bounds != (None, None) or by_partition:
        raise Usage("--from, --until and --by-partition apply to topics only", hint="topic://NAME")
    if archives:
        if follow:
            raise Usage(
                f"{archives[0]}: an archive has an end",
                hint="to replay later additions, start another run: --run-id NAME",
            )
        return ArchiveHistory(Path(archives[0]), format, repartition=repartition)
    if repartition:
        raise Usage(
            "--repartition applies to archives and topics only",
            hint="records of files are partitioned by the hash of their keys anyway",
        )
    return find_history(specs, format, follow=follow, spool=spool)
