"""Late records: whole records that count in no window, because their windows were closed when they came.

The topic is `<topic>.late`. Key, value and timestamp are those of the record, and so are its own headers, which come
first. A timestamp of exactly 0 ms cannot be sent, and becomes 1 ms. These headers follow:

| header | content |
| --- | --- |
| `anabranch-reason` | `late`; or `closed`: the window had closed here although the record was on time at its source |
| `anabranch-operator` | name of the table |
| `anabranch-window` | start and end of the first window that it would have counted in, ISO 8601, with `/` between |
| `anabranch-watermark` | the watermark in front of the record, ISO 8601 |
| `anabranch-source` | `topic[partition]@offset`, with `#row` for a row of a packed batch |
| `anabranch-app` | id of the app |

A record with the reason `closed` that came through a repartition topic has the value that it had there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...topics.dead_letter import Origin
from ...topics.headers import headers_of, without_control
from ...topics.output import Output
from ..engine.outbox import NO_TIME_MS
from ..event_time.channel import END_MS
from ..event_time.event_time import moment
from ..event_time.windows import Pane, Windows
from ..runtime import runtime_of

if TYPE_CHECKING:
    from ..stream import Stream

__all__ = ["LateRecords"]

# librdkafka takes 0 ms for the present.
_FIRST_MS = 1


class LateRecords:
    """Takes the late records of an operator.

    Args:
        operator: name of the table.
        topic: name of the topic that they are sent to; None: they are only counted.
    """

    def __init__(self, operator: str, windows: Windows, topic: str | None) -> None:
        self._operator, self._windows, self._topic = operator, windows, topic

    def send(self, stream: Stream, message: Any, pane: Pane, watermark_ms: int, reason: str) -> None:
        """Send a late record with the running epoch, and count it."""
        runtime = runtime_of(stream.app)
        runtime.context.epoch.outbox.late[self._operator, reason] += 1
        name = self._topic
        if name is None:
            return
        runtime.provisioner.add_dead_letter_topic(name, message.topic())
        start, end = self._windows.of_pane(pane)[0]
        row: int | None = getattr(message, "row", None)
        facts = {
            "reason": reason,
            "operator": self._operator,
            "window": f"{_text(start)}/{_text(end)}",
            "watermark": _text(watermark_ms),
            "source": str(Origin(message.topic(), message.partition(), message.offset(), row)),
            "app": runtime.conf.id,
        }
        headers = [
            *without_control(list(headers_of(message) or ())),
            *((f"anabranch-{fact}", text.encode()) for fact, text in facts.items()),
        ]
        timestamp_ms = message.timestamp()[1]
        sent_ms = None if timestamp_ms == NO_TIME_MS else timestamp_ms or _FIRST_MS
        output = Output(name, message.value(), message.key(), -1, sent_ms, headers)
        runtime.context.send(output)


def _text(time_ms: int) -> str:
    return "end" if time_ms == END_MS else moment(time_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
