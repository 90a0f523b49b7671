"""Canonical bytes and signatures, and nothing else.

A record on the wire is ``signature (64 bytes) || body``. The body is canonical MessagePack:
``str`` keys sorted by their UTF-8 bytes, the shortest form of every integer, no floats, no
extension types, bounded depth and size. Bytes are accepted only if encoding what was decoded
gives the same bytes again, so one meaning has one form.

The signature is pure Ed25519 over the DSSE v1 pre-authentication encoding (PAE) of payload type
and body, so that an exported envelope verifies with off-the-shelf tools. A record's id is
``sha256(PAE)``: it does not cover the signature, because one message has many valid ones.
Signed bytes are stored and forwarded as they came, never encoded anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack
from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError

from swarm.errors import WireError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PAYLOAD_TYPE = "application/vnd.lazaretto.record.v1+msgpack"
MAX_BODY = 64 * 1024
MAX_DEPTH = 12
MAX_ITEMS = 8192
SIGNATURE_SIZE = 64
MAX_RECORD = MAX_BODY + SIGNATURE_SIZE

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


def _checked(value: Any, depth: int) -> Any:
    """Return ``value`` with sorted maps, or raise on anything without a canonical form."""
    if depth > MAX_DEPTH:
        raise WireError(f"nested deeper than {MAX_DEPTH}")
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is int:
        if not _INT_MIN <= value <= _INT_MAX:
            raise WireError("integer outside 64 bits")
        return value
    if kind is bytes:
        return value
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise WireError("text with lone surrogates") from None
        return value
    if kind in (list, tuple):
        if len(value) > MAX_ITEMS:
            raise WireError(f"list of more than {MAX_ITEMS} items")
        return [_checked(item, depth + 1) for item in value]
    if kind is dict:
        if len(value) > MAX_ITEMS:
            raise WireError(f"map of more than {MAX_ITEMS} keys")
        if any(type(key) is not str for key in value):
            raise WireError("map key that is not text")
        try:
            "".join(value).encode()
        except UnicodeEncodeError:
            raise WireError("map key with lone surrogates") from None
        return {key: _checked(value[key], depth + 1) for key in sorted(value)}
    raise WireError(f"type {kind.__name__} has no canonical form")


def _check_decoded(value: Any, depth: int) -> None:
    """Raise where ``_checked`` would raise or sort, for what MessagePack can hold: quicker.

    The order of UTF-8 bytes is that of code points, so that text is compared as it is.
    """
    if depth > MAX_DEPTH:
        raise WireError(f"nested deeper than {MAX_DEPTH}")
    kind = type(value)
    if kind is bytes or kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not _INT_MIN <= value <= _INT_MAX:
            raise WireError("integer outside 64 bits")
    elif kind is list:
        for item in value:
            _check_decoded(item, depth + 1)
    elif kind is dict:
        before: str | None = None
        for key, item in value.items():
            if type(key) is not str or (before is not None and key <= before):
                raise WireError("not in canonical form")
            before = key
            _check_decoded(item, depth + 1)
    else:
        raise WireError(f"type {kind.__name__} has no canonical form")


def encode(value: Any) -> bytes:
    """Encode ``value`` (None, bool, int, str, bytes, list, map of str) canonically.

    Raises:
        WireError: the value holds a float, another type, or exceeds depth or item limits.
    """
    packed: bytes = msgpack.packb(_checked(value, 0), use_bin_type=True)
    return packed


def decode(data: bytes, *, max_size: int = MAX_BODY) -> Any:
    """Decode canonical bytes; anything else is refused.

    Raises:
        WireError: too large, malformed, trailing bytes, or not the canonical form.
    """
    if len(data) > max_size:
        raise WireError(f"{len(data)} bytes, more than {max_size}")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            use_list=True,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except Exception as error:  # msgpack raises ValueError, TypeError, StackError and its own kinds
        raise WireError(f"not MessagePack ({type(error).__name__})") from None
    _check_decoded(value, 0)
    if msgpack.packb(value, use_bin_type=True) != data:
        raise WireError("not in canonical form")
    return value


def pae(body: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """DSSE v1 pre-authentication encoding of ``body``: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


@dataclass(frozen=True, slots=True)
class Signed:
    """One signed record as bytes: ``body`` as it was signed, and its 64-byte ``signature``."""

    body: bytes
    signature: bytes

    @property
    def id(self) -> bytes:
        """32-byte record id: sha256 of the pre-authentication encoding."""
        return hashlib.sha256(pae(self.body)).digest()

    def to_bytes(self) -> bytes:
        """Return the form that is stored and sent: signature, then body."""
        return self.signature + self.body

    @classmethod
    def from_bytes(cls, data: bytes) -> Signed:
        """Split wire bytes; checks sizes only, neither canonical form nor signature."""
        if not SIGNATURE_SIZE < len(data) <= MAX_RECORD:
            raise WireError(f"a record of {len(data)} bytes")
        return cls(bytes(data[SIGNATURE_SIZE:]), bytes(data[:SIGNATURE_SIZE]))


def sign(key: Ed25519PrivateKey, body: bytes) -> Signed:
    """Sign canonical ``body`` with ``key``."""
    if len(body) > MAX_BODY:
        raise WireError(f"a body of {len(body)} bytes, more than {MAX_BODY}")
    return Signed(body, key.sign(pae(body)))


def verify(public: bytes, signed: Signed) -> None:
    """Check the signature of ``signed`` under the 32-byte ``public`` key.

    By libsodium's rules, which are stricter than RFC 8032 asks for (no small-order key, no
    small-order R, the one canonical S), so that whatever passes here passes in other libraries too.

    Raises:
        WireError: the signature does not verify.
    """
    if len(public) != 32 or len(signed.signature) != SIGNATURE_SIZE:  # the library does not look
        raise WireError("a key or a signature of a wrong length")
    try:
        crypto_sign_open(signed.signature + pae(signed.body), public)
    except CryptoError:
        raise WireError("the signature does not verify") from None
