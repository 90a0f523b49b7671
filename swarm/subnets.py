"""Which addresses count as one neighbour: whoever rents a subnet must not fill all our places."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

IPV4_PREFIX, IPV6_PREFIX = 24, 56


def subnet_of(host: str) -> str | None:
    """The subnet of an IP address as text; None for loopback, private and unreadable ones.

    /24 of IPv4 and /56 of IPv6, the smallest that are commonly given to one customer. An IPv4
    address inside IPv6 counts as what it is. Networks at home and in a lab are one subnet by
    nature, and whoever is in them has other means.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if not address.is_global:
        return None
    prefix = IPV4_PREFIX if address.version == 4 else IPV6_PREFIX
    return str(ipaddress.ip_network((address, prefix), strict=False))


class SubnetLimit:
    """Counts inbound connections by subnet.

    Args:
        limit: connections that one subnet may have.
        subnet: of an IP address; tests pass another rule.
    """

    def __init__(self, limit: int, subnet: Callable[[str], str | None] = subnet_of) -> None:
        self._limit = limit
        self._subnet = subnet
        self._open: Counter[str] = Counter()

    def enter(self, host: str) -> bool:
        """Count a connection from ``host``, or say that its subnet has enough."""
        subnet = self._subnet(host)
        if subnet is None:
            return True
        if self._open[subnet] >= self._limit:
            return False
        self._open[subnet] += 1
        return True

    def leave(self, host: str) -> None:
        """A connection that was let in has ended."""
        subnet = self._subnet(host)
        if subnet is not None:
            self._open[subnet] -= 1
            if self._open[subnet] <= 0:
                del self._open[subnet]
