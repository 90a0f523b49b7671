"""The addresses that a transport listens on."""

from __future__ import annotations

import re
import socket

from multiaddr import Multiaddr

from swarm.addresses import AddressError
from swarm.streams import NetworkError


def parse_listen_address(text: str) -> Multiaddr:
    """Parse ``/ip4/../tcp/..`` or ``/ip6/../tcp/..``; port 0 lets the system choose.

    Raises:
        AddressError: something else.
        NetworkError: no such IP address or port.
    """
    if not re.fullmatch(r"/ip4/[0-9.]+/tcp/[0-9]+|/ip6/[0-9a-f:]+/tcp/[0-9]+", text):
        raise AddressError("not an address to listen on", cure="write it as /ip4/0.0.0.0/tcp/4001")
    try:
        return Multiaddr(text)
    except ValueError:
        raise cannot_listen(text) from None


def cannot_listen(address: str) -> NetworkError:
    """Return the error for an address that cannot be listened on."""
    return NetworkError(
        f"cannot listen on {address}; nothing was lost",
        cure="choose another address or port, or stop the program that uses it",
    )


def check_port_is_free(address: Multiaddr) -> None:
    """Refuse a port in use: the library shares it, and half of the callers would be lost.

    Raises:
        NetworkError: in use, or not an address of this machine.
    """
    text = str(address)
    kind, host, _, port = text.split("/")[1:5]
    family = socket.AF_INET6 if kind == "ip6" else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            raise cannot_listen(text) from None
