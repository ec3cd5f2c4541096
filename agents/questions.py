"""Questions: records of `Agent.ask`, whose headers say where the answer goes, and the answer that there is none."""

from __future__ import annotations

from ..topics.output import Output
from ..topics.producer import Headers

__all__ = ["CORRELATION", "REFUSED", "refusal"]

REFUSED = "anabranch-refused"
"""Header of an answer that says why there is none: the question made its agent fail."""

CORRELATION = "Faust-Ag-CorrelationId"
_REPLY_TO = "Faust-Ag-ReplyTo"


def refusal(headers: Headers | None, why: str) -> Output | None:
    """Return the answer to a question that made its agent fail; None if the record is no question.

    Args:
        headers: those of the record.
        why: the error.
    """
    found = dict(headers or ())
    reply_to, correlation = found.get(_REPLY_TO), found.get(CORRELATION)
    if not reply_to or not correlation:
        return None
    own: Headers = [(CORRELATION, correlation), (REFUSED, why.encode(errors="backslashreplace"))]
    return Output(reply_to.decode(errors="replace"), b"null", None, -1, None, own)
