"""What a replay says about itself, while it runs and at its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from .pipeline.column_profile import Profile

__all__ = ["NEAR_1970", "NEAR_1970_MS", "Progress", "Report"]

NEAR_1970_MS = 365 * 86_400_000
NEAR_1970 = "a number such as 20130101 is read as seconds since 1970 unless --time-format %Y%m%d says what it is"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a replay stands after a commit. Counts are those of the run, earlier starts included.

    Attributes:
        sent_now: by this start.
        done_bytes, size_bytes: of the files on disk; size 0 where there is no end in sight.
        begun_bytes: of `done_bytes`, what earlier starts had read.
        limit: records of the run at most; None where there is none.
        at_ms: where it is in event time; 0 where records have no times.
        lag_s: how far it is behind its pace.
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
        """Records a second of this start."""
        return self.sent_now / self.seconds if self.seconds else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at the rate so far; None where that cannot be told."""
        found: list[float] = []
        read = self.done_bytes - self.begun_bytes
        if self.size_bytes and read > 0:
            found.append(self.seconds * max(0, self.size_bytes - self.done_bytes) / read)
        if self.limit is not None and self.sent_now:
            found.append(self.seconds * max(0, self.limit - self.sent) / self.sent_now)
        return min(found, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a replay ended.

    Attributes:
        sent, skipped, dead_letters, blank: of the whole run, earlier starts included.
        sent_now: records sent by this start.
        seconds: what this start took.
        counts: records of the run by partition.
        begins: by partition the offset of the run's first record.
        marks: end marks, by partition the offset after the run's last record; none for partitions without one.
        done: the sources were read to their end; otherwise `stop()` was called.
        already_done: the run was finished before this start, which wrote nothing.
        resumed_from: records that earlier starts had sent; None for the first start.
        resumable: the run goes on where it was when it is started again; a socket does not.
        examples: the first bad lines of this start, as `file:line: reason`.
        warnings: what might go wrong with the topic.
        left_out: records of this start that were not selected.
        late, late_ms: records of this start that were late in their source, and by how much the latest of them.
        profile: of the columns of the first records of this start.
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
    begins: dict[int, int]
    marks: dict[int, int]
    done: bool
    already_done: bool
    resumed_from: int | None
    resumable: bool
    examples: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    late: int = 0
    late_ms: int = 0
    left_out: int = 0
    profile: Profile = field(default_factory=Profile)

    @property
    def rate(self) -> float:
        """Records a second of this start."""
        return self.sent_now / self.seconds if self.seconds else 0.0
