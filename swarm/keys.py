"""One Ed25519 key is a node's identity: libp2p peer, record author, roster entry."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from swarm.errors import SwarmError

if TYPE_CHECKING:
    from pathlib import Path

KEY_SIZE = 32
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PEER_ID_PREFIX = bytes.fromhex("0024080112 20".replace(" ", ""))  # identity multihash of the key


class KeyFileError(SwarmError):
    """A key file is missing, malformed or readable by others."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A node's key. ``seed`` is the 32-byte secret; ``public`` the 32-byte Ed25519 public key."""

    seed: bytes = field(repr=False)
    private: Ed25519PrivateKey = field(repr=False, compare=False)
    public: bytes

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """Derive the pair from a 32-byte seed."""
        private = Ed25519PrivateKey.from_private_bytes(seed)
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return cls(seed, private, public)

    @classmethod
    def generate(cls) -> KeyPair:
        """Make a new pair from the operating system's random source."""
        return cls.from_seed(os.urandom(KEY_SIZE))

    def save(self, path: Path) -> None:
        """Write the seed to a new file that only its owner can read, durably."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(self.seed)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def load(cls, path: Path) -> KeyPair:
        """Read a key file.

        Raises:
            KeyFileError: missing, not 32 bytes, or readable by group or others.
        """
        try:
            mode = path.stat().st_mode
            seed = path.read_bytes()
        except OSError as error:
            raise KeyFileError(
                f"cannot read the key {path}: {error.strerror}", cure="lazaretto join INVITE"
            ) from None
        if mode & 0o077:
            raise KeyFileError(f"the key {path} can be read by others", cure=f"chmod 600 {path}")
        if len(seed) != KEY_SIZE:
            raise KeyFileError(
                f"the key {path} is damaged", cure="restore it from a backup; never edit it"
            )
        return cls.from_seed(seed)


@lru_cache(maxsize=4096)
def is_valid_public(public: bytes) -> bool:
    """Tell whether ``public`` is a canonical Ed25519 point of the prime-order group.

    ``cryptography`` accepts small-order keys, under which anybody's signature verifies any message.
    libsodium's point check refuses them; it runs once per key, when a key is first seen.
    """
    from nacl.bindings import crypto_core_ed25519_is_valid_point

    return len(public) == KEY_SIZE and bool(crypto_core_ed25519_is_valid_point(public))


@lru_cache(maxsize=4096)
def peer_id(public: bytes) -> str:
    """The libp2p peer id of a key, as text (``12D3KooW...``). Also a node's name on screen."""
    data = _PEER_ID_PREFIX + public
    number = int.from_bytes(data, "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def public_from_peer_id(text: str) -> bytes:
    """Inverse of :func:`peer_id`.

    Raises:
        SwarmError: not the peer id of an Ed25519 key.
    """
    number = 0
    for char in text[:64]:
        digit = _BASE58.find(char)
        if digit < 0:
            raise SwarmError("not a peer id")
        number = number * 58 + digit
    size = len(_PEER_ID_PREFIX) + KEY_SIZE
    data = number.to_bytes(64, "big")[-size:]
    if not data.startswith(_PEER_ID_PREFIX) or peer_id(data[-KEY_SIZE:]) != text:
        raise SwarmError("not the peer id of an Ed25519 key")
    return data[-KEY_SIZE:]


def short(identity: bytes | str) -> str:
    """A short form for people: the last 8 of a peer id (bytes: a public key)."""
    text = peer_id(identity) if isinstance(identity, bytes) else identity
    return text[-8:]


def rotation_bytes(swarm: bytes, old: bytes, new: bytes) -> bytes:
    """What the key ``new`` signs to take over from ``old`` in ``swarm`` (32 bytes each)."""
    return b"lazaretto/rotation/1" + swarm + old + new
