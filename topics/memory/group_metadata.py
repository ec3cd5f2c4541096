"""The group metadata that a consumer passes to a transaction, in librdkafka's own form."""

from __future__ import annotations

import struct
from typing import NamedTuple

from confluent_kafka import KafkaError

from .failure import failure

__all__ = ["GroupMetadata"]

_MAGIC = b"CGMDv2:"
_NUMBER = struct.Struct("=i")


class GroupMetadata(NamedTuple):
    """A member of a group and the generation that it is part of.

    >>> GroupMetadata("g", -1, "", None).encoded()
    b'CGMDv2:\\xff\\xff\\xff\\xffg\\x00\\x00\\x01'
    """

    group: str
    generation: int
    member_id: str
    instance: str | None

    def encoded(self) -> bytes:
        """Return it as `consumer_group_metadata` of confluent_kafka does."""
        texts = b"".join(text.encode() + b"\0" for text in (self.group, self.member_id))
        instance = b"\x01" if self.instance is None else b"\0" + self.instance.encode() + b"\0"
        return _MAGIC + _NUMBER.pack(self.generation) + texts + instance

    @classmethod
    def parsed(cls, encoded: object) -> GroupMetadata:
        """Return what an encoded form says.

        Raises:
            KafkaException: it is not one.
        """
        if not isinstance(encoded, bytes) or not encoded.startswith(_MAGIC):
            raise failure(KafkaError._BAD_MSG, "Input buffer is not a serialized consumer group metadata object")  # pyright: ignore[reportPrivateUsage]
        rest = encoded[len(_MAGIC) :]
        (generation,) = _NUMBER.unpack_from(rest)
        group, member_id, instance = rest[_NUMBER.size :].split(b"\0", 2)
        static = None if instance.startswith(b"\x01") else instance[1:].rstrip(b"\0").decode()
        return cls(group.decode(), generation, member_id.decode(), static)
