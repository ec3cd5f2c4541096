"""The classes of errors, by what the caller does next.

    AnabranchError
    ├── Retriable     the same call may succeed when it is made again
    ├── Rebuild       this client is finished (fenced, fatal): make a new one and restore from the changelog
    ├── BadRecord     one record cannot be processed: its failure policy applies, other records are not affected
    └── Stop          a human has to change something; the program ends with exit code 1
        ├── Hung      this client hangs, or cannot be used any more: a new one may find the outcome of its last call
        └── Usage     the command line, the configuration or the program has to change; exit code 2

Each carries a hint: what to do about it.
"""

from __future__ import annotations

import asyncio
import errno
import os

from confluent_kafka import KafkaError, KafkaException

from .printable import without_passwords
from .private_texts import HIDDEN_TEXT, chained, hides_texts, is_raised_here, known_text, traceback_text

__all__ = [
    "AnabranchError",
    "BadRecord",
    "Hung",
    "Rebuild",
    "Retriable",
    "Stop",
    "Usage",
    "described",
    "formatted_traceback",
    "from_kafka",
    "is_fatal",
    "is_lost",
    "is_refusal",
    "is_too_large",
    "is_unreachable",
    "kafka_cause",
    "kafka_error",
    "may_pass",
    "message_of",
    "passes",
    "understood",
]


class AnabranchError(Exception):
    """Base of all errors of this project.

    Args:
        message: what happened, with the facts (topic, partition, offset, file, line). Passwords in URLs are hidden.
        hint: what to do about it; shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(without_passwords(message))
        self.hint = without_passwords(hint)

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n  hint: {self.hint}" if self.hint else message


def described(error: BaseException, *, whole: bool = False) -> str:
    """Return the type and the message of an error, in one line if the message is one line.

    Args:
        whole: with the message in any case; else it is hidden where it may quote a private field.
    """
    try:
        text = str(error) if whole else message_of(error)
    except BaseException as exc:  # noqa: BLE001 (a class of the user's may raise anything)
        text = f"(its message cannot be shown: {type(exc).__name__})"
    if not text and isinstance(error, asyncio.CancelledError):
        text = "something that was awaited has been cancelled"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def message_of(error: BaseException) -> str:
    """Return the message of an error, or a note in its place if it may quote a private field."""
    if not hides_texts() or (isinstance(error, AnabranchError) and is_raised_here(error)):
        return str(error)
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return str(error)
    text = known_text(error)
    return (HIDDEN_TEXT if str(error) else "") if text is None else text


def formatted_traceback(error: BaseException) -> str:
    """Return the traceback of an error, in which messages that may quote a private field are hidden."""
    return traceback_text(error, {id(each): message_of(each) for each in chained(error)})


class Retriable(AnabranchError):
    """The same call may succeed when made again."""


class Rebuild(AnabranchError):
    """The client is fenced or fatally broken: make a new one, restore from the changelog."""


class BadRecord(AnabranchError):
    """One record cannot be processed; the failure policy of its reader applies."""


class Stop(AnabranchError):
    """A human has to change something first."""


class Hung(Stop):
    """The client hangs although the cluster answers (see `client_watchdog`), or it is fenced or broken.

    The outcome of its last call is unknown, as after a crash. Callers that can continue with a new client do; otherwise
    the program ends.

    Attributes:
        fenced: whether the client is fenced or broken; False if it hangs.
    """

    def __init__(self, message: str, *, fenced: bool = False) -> None:
        super().__init__(message, hint="start again: it resumes from the last commit")
        self.fenced = fenced


class Usage(Stop):
    """The command line, the configuration or the user's program has to change."""

    exit_code = 2


# Errors after which a member no longer owns its partitions, so that its results must be dropped.
_LOST = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)

_UNREACHABLE = frozenset(
    {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._RESOLVE}  # pyright: ignore[reportPrivateUsage]
)


# Some brokers learn of a new topic or broker late. librdkafka's admin calls report these errors as not retriable.
_NOT_YET = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError._WAIT_COORD,  # pyright: ignore[reportPrivateUsage]
    }
)


_SIZES = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})

# Errors of a broker or of librdkafka about a record that cannot be sent, however often.
_REFUSALS = _SIZES | frozenset(
    {
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_MSG,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.POLICY_VIOLATION,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError._UNKNOWN_PARTITION,  # pyright: ignore[reportPrivateUsage]
        KafkaError._INVALID_ARG,  # pyright: ignore[reportPrivateUsage]
        KafkaError._BAD_MSG,  # pyright: ignore[reportPrivateUsage]
    }
)


def is_refusal(error: KafkaError) -> bool:
    """Return whether `error` is about the record or the topic's name, so that sending it again cannot help."""
    return error.code() in _REFUSALS


def is_too_large(error: KafkaError) -> bool:
    """Return whether `error` says that a record or a batch of records is too large for its topic."""
    return error.code() in _SIZES


def is_unreachable(error: KafkaError) -> bool:
    """Return whether `error` says that no broker answers."""
    return error.code() in _UNREACHABLE


def passes(error: KafkaError) -> bool:
    """Return whether `error` is temporary, so that the call may be repeated for a while."""
    return error.retriable() or error.code() in _NOT_YET


def kafka_error(exc: KafkaException) -> KafkaError:
    """Return the `KafkaError` of an exception: its first argument."""
    error = exc.args[0]
    assert isinstance(error, KafkaError), exc.args
    return error


def kafka_cause(error: BaseException) -> KafkaError | None:
    """Return the Kafka error that caused an error of this project; None if another cause did."""
    cause = error.__cause__
    return kafka_error(cause) if isinstance(cause, KafkaException) else None


# A client that is fenced or broken fails in every call with `_FATAL`, and that error is not marked as fatal.
_FATAL = frozenset({KafkaError._FATAL, KafkaError._FENCED, KafkaError.PRODUCER_FENCED})  # pyright: ignore[reportPrivateUsage]


def is_fatal(error: KafkaError) -> bool:
    """Return whether `error` says that the client is fenced or broken, so that only a new client can continue."""
    return error.fatal() or error.code() in _FATAL


def may_pass(error: KafkaError) -> bool:
    """Return whether `error` may be temporary or no broker answers yet, so that a retry may succeed."""
    return passes(error) or is_unreachable(error)


def is_lost(error: KafkaError) -> bool:
    """Return whether `error` says that this member no longer owns its partitions."""
    return error.code() in _LOST


# Errors of options with which no client can be made.
_REFUSED = frozenset({KafkaError._INVALID_ARG, KafkaError._CONFLICT})  # pyright: ignore[reportPrivateUsage]


def _resolved(why: str) -> str:
    """Return the cause in librdkafka's `host:port/bootstrap: Failed to resolve … (after 5ms in state CONNECT)`."""
    _, found, detail = why.partition("Failed to resolve")
    return f"cannot resolve{detail.partition(' (after')[0]}" if found else why


def understood(exc: BaseException) -> AnabranchError | None:
    """Return an exception that ends a command as an error with a hint; None if its meaning is not known."""
    if isinstance(exc, AnabranchError):
        return exc
    if isinstance(exc, KafkaException) and exc.args and isinstance(exc.args[0], KafkaError):
        return from_kafka(exc, "Kafka client")
    if isinstance(exc, OSError) and exc.errno is not None and exc.filename is not None:
        path = exc.filename if isinstance(exc.filename, str) else os.fsdecode(exc.filename)
        return Stop(f"{path}: {os.strerror(exc.errno)}", hint=_OS_HINTS.get(exc.errno, "check the path"))
    if isinstance(exc, OSError) and exc.errno in _OS_HINTS:
        return Stop(os.strerror(exc.errno), hint=_OS_HINTS[exc.errno])
    return None


_NOT_PERMITTED = "choose another folder (--datadir, ANABRANCH_HOME), or change its owner"
_OS_HINTS = {
    errno.EACCES: _NOT_PERMITTED,
    errno.EPERM: _NOT_PERMITTED,
    errno.EROFS: "choose another folder (--datadir, ANABRANCH_HOME)",
    errno.ENOSPC: "free space on that disk, or choose another folder (--datadir, ANABRANCH_HOME)",
    errno.EDQUOT: "free space on that disk, or choose another folder (--datadir, ANABRANCH_HOME)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def from_kafka(exc: KafkaException, doing: str, *, servers: str = "", why: str = "") -> AnabranchError:
    """Return the error of this project for a Kafka exception, classified by remedy.

    Args:
        exc: raised by librdkafka.
        doing: the failed action, such as "create topic orders".
        servers: bootstrap servers, named when none of them can be reached.
        why: the reason why a connection failed, such as a wrong password, if the client has reported one.
    """
    error = kafka_error(exc)
    if error.code() in _REFUSED:
        return Usage(
            f"Kafka client: {error.str()}",
            hint="it comes from -X, from KAFKA_… in the environment or from a setting of the app (docs/settings.md): "
            "change it, or omit it if it conflicts with an option that anabranch sets",
        )
    if error.code() == KafkaError.TOPIC_EXCEPTION:
        return Usage(f"{doing}: {error.str()}")
    if error.code() in _UNREACHABLE and "resolve" in why:
        return Stop(
            f"{doing}: no broker{f' at {servers}' if servers else ''}: {_resolved(why)}",
            hint="check the name in --bootstrap-server (or KAFKA_BOOTSTRAP_SERVERS), and the network",
        )
    if is_fatal(error):
        return Rebuild(f"{doing}: {error.str()}")
    if error.code() in _UNREACHABLE and why:
        return Stop(
            f"{doing}: no broker{f' at {servers}' if servers else ''} accepts the connection: {why}",
            hint="check security.protocol, ssl.* and sasl.* (-X name=value, or KAFKA_… in the environment)",
        )
    if error.code() in _UNREACHABLE:
        return Stop(
            f"{doing}: no broker answers{f' at {servers}' if servers else ''} ({error.name()})",
            hint="check --bootstrap-server and that Kafka runs; without the option an embedded broker is started",
        )
    if error.retriable():
        return Retriable(f"{doing}: {error.str()}")
    return Stop(f"{doing}: {error.str()} ({error.name()})")
