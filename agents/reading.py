"""The loops of an agent over its stream: it may leave one and begin another, or have one inside of another."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .engine.firing import FiringRecord

if TYPE_CHECKING:
    from .stream import Stream
    from .take_buffer import TakeBuffer

__all__ = ["Reading"]

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Reading:
    """A loop of an agent over its stream.

    Attributes:
        grouped: whether the agent gets several records at a time.
        by_batch: whether these are batches.
        held: the records that `take` holds back.
    """

    grouped: bool
    by_batch: bool
    held: TakeBuffer | None = None

    def leave(self, stream: Stream, *, is_processing: bool) -> None:
        """Put what the loop has taken, and the agent has not seen, back into the queue.

        Args:
            is_processing: the processors of the record at hand have not come to an end.
        """
        message, queue = stream.message, stream.queue
        if type(message) is FiringRecord or (queue.has_taken if message is None else is_processing):
            # By a timeout around it. What has been done there, and what not, is not known.
            logger.warning("agent %s has cancelled its loop between two values: the epoch is rolled back", stream.name)
            stream.context.epoch.want_rollback()
        elif message is not None:  # else it has failed, or was cancelled while it waited for records
            queue.leave(message)
        if self.held is not None:
            self.held.leave(message)
