"""Streams between two peers: serving a protocol, and asking for one. The base of ``Transport``."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from swarm.keys import short
from swarm.places import Places
from swarm.safe_libp2p import key_of, peer_id_of
from swarm.streams import FramedStream, Misbehaviour, NetworkError, PeerGone, PeerSilent

log = logging.getLogger(__name__)

Handler = Callable[[bytes, FramedStream], Awaitable[None]]
"""(peer key, stream) -> None. The stream is closed or reset afterwards, not by the handler."""
Responder = Callable[[bytes, bytes], Awaitable[bytes]]
"""(peer key, request) -> response."""


class Exchanges(ABC):
    """Framed streams over a libp2p host, with every limit that a hostile peer calls for."""

    @abstractmethod
    def _libp2p_host(self) -> Any: ...

    @abstractmethod
    def admits(self, key: bytes) -> bool:
        """Say whether the key is a member's."""

    @abstractmethod
    def refuses(self, key: bytes) -> bool:
        """Say whether nothing is taken from this key at the moment."""

    @abstractmethod
    def connected(self, key: bytes) -> bool:
        """Say whether there is a connection to ``key``, member or not."""

    @abstractmethod
    def penalise(self, key: bytes, reason: str, points: float = 1.0) -> None:
        """Count something that the peer did wrong."""

    @abstractmethod
    def suspect(self, key: bytes) -> None:
        """Note that a connected peer did not answer in time: it may be gone."""

    def set_handler(
        self,
        protocol: str,
        handler: Handler,
        *,
        members_only: bool = True,
        timeout: float = 60.0,
        per_peer: int = 4,
        in_all: int = 64,
    ) -> None:
        """Serve a protocol.

        ``handler`` gets at most ``timeout`` seconds per stream, ``per_peer`` streams at a time
        from one peer and ``in_all`` from all; more are reset, see ``swarm.places`` for whose. Its
        exceptions are logged and the stream is reset; ``Misbehaviour`` costs the peer 5 points.
        """
        places = Places(per_peer, in_all)

        async def serve(raw: Any) -> None:
            key = key_of(raw.muxed_conn.peer_id)
            if key is None or (members_only and not self.admits(key)) or self.refuses(key):
                await raw.reset()
                return
            address = raw.muxed_conn.get_remote_address()
            stream = FramedStream(raw, host=str(address[0]) if address else "")
            place = places.take(key, stream)
            if place is None:
                await raw.reset()
                return
            try:
                with place.scope, trio.fail_after(timeout):
                    await handler(key, stream)
                if place.scope.cancelled_caught:
                    raise PeerGone("its place went to a peer that had none")
            except Misbehaviour as error:
                await stream.reset()
                self.penalise(key, f"{protocol}: {error}", 5.0)
            except (NetworkError, trio.TooSlowError) as error:
                log.debug("%s with %s ended: %r", protocol, short(key), error)
                await stream.reset()
            except Exception:
                log.exception("the handler of %s failed", protocol)
                await stream.reset()
            else:
                await stream.finish()
            finally:
                places.leave(place)

        self._libp2p_host().set_stream_handler(protocol, serve)

    def set_responder(
        self,
        protocol: str,
        respond: Responder,
        *,
        max_request: int,
        members_only: bool = True,
        timeout: float = 20.0,
        per_peer: int = 4,
    ) -> None:
        """Serve a protocol of one request frame and one response frame."""

        async def handle(peer: bytes, stream: FramedStream) -> None:
            request = await stream.read_frame(max_request)
            await stream.write_frame(await respond(peer, request))

        self.set_handler(
            protocol, handle, members_only=members_only, timeout=timeout, per_peer=per_peer
        )

    @asynccontextmanager
    async def stream(
        self, peer: bytes, protocol: str, seconds: float = 10.0
    ) -> AsyncIterator[FramedStream]:
        """Open a stream to a connected peer; closed at the end of the block, reset on an error.

        Raises:
            PeerGone: not connected, or the peer does not take the protocol.
        """
        if not self.connected(peer):
            raise PeerGone(f"not connected to {short(peer)}")
        try:
            with trio.fail_after(seconds):
                raw = await self._libp2p_host().new_stream(peer_id_of(peer), [protocol])
        except trio.TooSlowError:
            self.suspect(peer)
            raise PeerSilent(f"{short(peer)} did not take {protocol} in time") from None
        except Exception as error:
            raise PeerGone(f"{short(peer)} does not take {protocol}") from error
        stream = FramedStream(raw, seconds)
        try:
            yield stream
        except BaseException as error:
            await stream.reset()
            if isinstance(error, Misbehaviour):
                self.penalise(peer, f"{protocol}: {error}", 5.0)
            elif isinstance(error, PeerSilent):
                self.suspect(peer)
            raise
        await stream.finish()

    async def request(
        self,
        peer: bytes,
        protocol: str,
        payload: bytes,
        *,
        max_response: int,
        seconds: float = 10.0,
    ) -> bytes:
        """Send one frame, return the one that comes back.

        Raises:
            PeerGone: not connected, or no answer within ``seconds``.
            Misbehaviour: the answer is larger than ``max_response`` bytes.
        """
        try:
            with trio.fail_after(seconds):
                async with self.stream(peer, protocol, seconds) as stream:
                    await stream.write_frame(payload)
                    return await stream.read_frame(max_response)
        except trio.TooSlowError:
            self.suspect(peer)
            raise PeerSilent(f"{short(peer)} did not answer in time") from None
