"""The progress of a replay while it runs, and its report at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from .pipeline.column_profile import Profile

__all__ = ["NEAR_1970", "NEAR_1970_MS", "Counters", "Progress", "Report"]

NEAR_1970_MS = 365 * 86_400_000
NEAR_1970 = "a number such as 20130101 is read as seconds since 1970; --time-format %Y%m%d reads it as a date"


@dataclass(slots=True)
class Counters:
    """The counters of a pipeline, since the start of the replay.

    Attributes:
        out_of_order: records that were out of order in their source.
        out_of_order_ms: the largest difference between such a record and the latest time before it, in milliseconds.
        filtered_out: records that were read and not selected, or for which a transform returned nothing.
    """

    out_of_order: int = 0
    out_of_order_ms: int = 0
    filtered_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a replay is after a commit. Counts are those of the run, including earlier starts, unless noted.

    Attributes:
        sent_now: records that this start has produced.
        done_bytes, size_bytes: how much of the sources has been read; the size is 0 for a source without a known end.
        begun_bytes: how much of `done_bytes` earlier starts had read.
        limit: how many records the run produces at most; None without a limit.
        at_ms: event time of the latest records, in milliseconds since 1970; 0 where records have no times.
        lag_s: how far the replay is behind its pace.
        seconds: since this start.
    """

    sent: int
    sent_now: int
    skipped: int
    dead_letters: int
    done_bytes: int
    size_bytes: int
    seconds: float
    begun_bytes: int = 0
    limit: int | None = None
    at_ms: int = 0
    lag_s: float = 0.0

    @property
    def rate(self) -> float:
        """Records per second of this start."""
        return self.sent_now / self.seconds if self.seconds else 0.0

    @property
    def left_s(self) -> float | None:
        """Estimated seconds to the end, at the rate so far; None if they cannot be estimated."""
        found: list[float] = []
        read = self.done_bytes - self.begun_bytes
        if self.size_bytes and read > 0:
            found.append(self.seconds * max(0, self.size_bytes - self.done_bytes) / read)
        if self.limit is not None and self.sent_now:
            found.append(self.seconds * max(0, self.limit - self.sent) / self.sent_now)
        return min(found, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a replay ended. Counts are those of the run, including earlier starts, unless noted.

    Attributes:
        sent, skipped, dead_letters, blank: records produced, bad lines skipped, bad lines produced to the dead-letter
            topic, blank lines.
        sent_now: records that this start produced.
        seconds: duration of this start.
        counts: records by partition.
        begin_offsets: by partition, the offset of the run's first record.
        end_offsets: by partition, the offset after the run's last record; partitions without a record are absent.
        done: the sources were read to their end; otherwise `stop()` was called.
        already_done: an earlier start had finished the run, and this one produced nothing.
        resumed_from: records that earlier starts had produced; None for the first start.
        resumable: the run resumes where it left off when it is started again; with a socket it does not.
        examples: the first bad lines of this start, as `file:line: reason`.
        warnings: what may become of the records in their topic.
        filtered_out: records of this start that were not selected.
        out_of_order, out_of_order_ms: see `Counters`, for this start.
        profile: the columns of the first records of this start; `Profile.records` says of how many.
    """

    run_id: str
    topic: str
    sent: int
    skipped: int
    dead_letters: int
    blank: int
    sent_now: int
    seconds: float
    counts: dict[int, int]
    begin_offsets: dict[int, int]
    end_offsets: dict[int, int]
    done: bool
    already_done: bool
    resumed_from: int | None
    resumable: bool
    examples: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    out_of_order: int = 0
    out_of_order_ms: int = 0
    filtered_out: int = 0
    profile: Profile = field(default_factory=Profile)

    @property
    def has_remarks(self) -> bool:
        """Whether there were bad lines, filtered records, records out of order, rejected values, or warnings."""
        counts = (self.skipped, self.dead_letters, self.filtered_out, self.out_of_order)
        rejected = any(column.refused for column in self.profile.columns.values())
        return any(counts) or rejected or bool(self.examples or self.warnings)

    @property
    def rate(self) -> float:
        """Records per second of this start."""
        return self.sent_now / self.seconds if self.seconds else 0.0
