"""How many may be connected: in all, from one address, and in their handshakes.

A connection is counted once: as a Handshake until it is answered or gone, or else until its end as a Client.
What has been refused and only lingers is bounded by `max_handshakes`.

An address is an IPv4 address, or the first 64 bits of an IPv6 one: a household has as many of those as it likes.
Loopback and Unix sockets are not counted by address: what comes from there is a local program, or a proxy in front of
everybody. What a trusted proxy says is counted whatever it is.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from ..options import ServerOptions

__all__ = ["Admission", "name_address"]

UNIX = "unix"
"""Counted under this: whom a trusted Unix socket tells no address of."""


def name_address(address: Any, *, is_forwarded: bool) -> str | None:
    """Return what connections of an address (as `socket.getpeername()` gives it) are counted under; None: not."""
    if not isinstance(address, tuple):
        return UNIX if is_forwarded else None
    host: str = address[0]
    if ":" in host:
        number = ipaddress.IPv6Address(host.partition("%")[0])
        if number.ipv4_mapped is None:
            is_loopback = number.is_loopback
            host = str(ipaddress.IPv6Address(int(number) >> 64 << 64))
        else:
            host = str(number.ipv4_mapped)
            is_loopback = number.ipv4_mapped.is_loopback
    else:
        is_loopback = host.startswith("127.")
    return None if is_loopback and not is_forwarded else host


class Admission:
    """Counts connections, and says which limit one more would break: a cause of `Server.stats()["refused"]`."""

    __slots__ = ("_by_address", "_max_by_address", "_max_connections", "connections")

    def __init__(self, options: ServerOptions) -> None:
        self._max_connections = options.max_connections
        self._max_by_address = options.max_connections_per_address
        self._by_address: dict[str, int] = {}
        self.connections = 0

    @property
    def addresses(self) -> int:
        """How many addresses are connected."""
        return len(self._by_address)

    def enter(self) -> str | None:
        """Count a connection, unless one more would be above a limit: then its name, and nothing is counted."""
        if self.connections >= self._max_connections:
            return "max_connections"
        self.connections += 1
        return None

    def enter_address(self, name: str) -> str | None:
        """The same for the address of a connection."""
        count = self._by_address.get(name, 0)
        if count >= self._max_by_address:
            return "max_connections_per_address"
        self._by_address[name] = count + 1
        return None

    def leave(self, name: str | None) -> None:
        """A connection that was counted is gone, and its address if that was counted."""
        self.connections -= 1
        if name is not None:
            self._by_address[name] -= 1
            if not self._by_address[name]:
                del self._by_address[name]
