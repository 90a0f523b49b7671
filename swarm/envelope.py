"""The envelope around every payload: who says it, in which swarm, after what.

:func:`parse` is the only door for bytes from anywhere; :func:`seal_record` the only one for our
own. Store and forward ``Record.signed`` as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from swarm import wire
from swarm.errors import RecordError
from swarm.fields import MAX_REFS, Count, Hash, Key, Name, from_map, to_map
from swarm.keys import KeyPair, is_valid_public
from swarm.records import KINDS, Charter, Payload

VERSION = 1
NO_EPOCH = bytes(32)
"""What a record names that was written under no epoch in particular."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every record says of itself, before its payload.

    ``refs`` names up to 32 records that this one builds on or had seen. ``epoch_id`` is the record
    id of the epoch under which its author wrote, 32 zero bytes where it names none: a statement for
    that chain of epochs (``swarm.finality``). ``day``: days since 1970-01-01 UTC, for people only:
    no rule reads it.
    """

    v: Annotated[int, Meta(ge=VERSION, le=VERSION)]
    swarm: Hash | None
    kind: Name
    author: Key
    seq: Count
    prev: Hash | None
    epoch: Annotated[int, Meta(ge=0, le=2**31)]
    refs: Annotated[tuple[Hash, ...], Meta(max_length=MAX_REFS)]
    epoch_id: Hash
    day: Annotated[int, Meta(ge=0, le=10**6)]
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """A checked record: signed bytes, envelope and typed payload. ``id`` is 32 bytes."""

    id: bytes
    signed: wire.Signed
    envelope: Envelope
    payload: Payload

    @property
    def kind(self) -> str:
        return self.envelope.kind

    @property
    def author(self) -> bytes:
        return self.envelope.author


def parse(data: bytes, *, check_signature: bool = True) -> Record:
    """Check wire bytes from anywhere and return the record.

    Canonical form, field types and ranges, a sound author key and the signature are checked;
    membership and feed order are not (``feed``, ``charter``). ``check_signature=False`` is for
    bytes that this node's own store has checked before.

    Raises:
        WireError: not canonical, or a wrong signature.
        RecordError: fields that the protocol does not allow.
    """
    signed = wire.Signed.from_bytes(data)
    body = wire.decode(signed.body)
    if not isinstance(body, dict):
        raise RecordError("a record's body is not a map")
    envelope = from_map(Envelope, body)
    if (envelope.swarm is None) != (envelope.kind == Charter.KIND):
        raise RecordError("only a charter has no swarm id, and a charter has none")
    if (envelope.prev is None) != (envelope.seq == 0):
        raise RecordError("only the first record of a feed has no predecessor")
    if envelope.epoch == 0 and envelope.epoch_id != NO_EPOCH:
        raise RecordError("a record from before the first epoch names none")
    if check_signature:
        if not is_valid_public(envelope.author):
            raise RecordError("the author's key is not a sound Ed25519 key")
        wire.verify(envelope.author, signed)
    kind = KINDS.get(envelope.kind)
    if kind is None:
        raise RecordError("a record of an unknown kind")
    return Record(signed.id, signed, envelope, from_map(kind, envelope.payload))


def seal_record(
    key: KeyPair,
    payload: Payload,
    *,
    swarm: bytes | None,
    seq: int,
    prev: bytes | None,
    epoch: int,
    day: int,
    refs: tuple[bytes, ...] = (),
    epoch_id: bytes = NO_EPOCH,
) -> Record:
    """Sign ``payload`` as the record ``seq`` of the feed of ``key``, and check it as a peer would.

    Raises:
        RecordError, WireError: the payload breaks a bound of the protocol.
    """
    envelope = Envelope(
        v=VERSION,
        swarm=swarm,
        kind=payload.KIND,
        author=key.public,
        seq=seq,
        prev=prev,
        epoch=epoch,
        refs=refs[:MAX_REFS],
        epoch_id=epoch_id,
        day=day,
        payload=to_map(payload),
    )
    return parse(wire.sign(key.private, wire.encode(to_map(envelope))).to_bytes())
