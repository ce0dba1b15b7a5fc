"""Whom a connection is from, when proxies stand between: X-Forwarded-For and Forwarded (RFC 7239).

    client 203.0.113.7 -> proxy 10.0.0.2 -> proxy 10.0.0.1 -> here
    X-Forwarded-For: 203.0.113.7, 10.0.0.2          (each proxy appends whom it was called by)

Anybody may send these headers, so the list is read from the right, beginning with the connection's own peer,
and only as far as the proxies that are trusted: the first address that is none of them is the client.

Invariants

1. No header moves the address of a connection whose peer is not trusted.
2. What stands left of an address that is not trusted, or that cannot be read, is never looked at.
3. Of two headers that disagree neither is believed: a proxy that writes one of them may pass on the client's other.
4. Nothing a client sends raises.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["TrustedProxies"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix"
"""Names the peers of a Unix socket, which have no address."""
EVERYBODY = "*"
IPV4_MAPPED_BITS = 96
"""The prefix that makes an IPv6 address of an IPv4 one (RFC 4291 section 2.5.5.2)."""
MAX_HOPS = 32
"""So many entries of a list are read, from its end."""
MAX_ELEMENT_CHARACTERS = 512
"""An element of Forwarded that is longer is a hop that cannot be read. Looking for its beginning takes time."""

_read_hop = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\w+)?|([0-9.]+)(?::\w+)?|([0-9A-Fa-f:.]+)", re.ASCII).fullmatch
"""An address as proxies write it: with or without a port, IPv6 with or without brackets."""
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PAIR = rf"{_TOKEN}=(?:{_TOKEN}|\"(?:[^\"\\]|\\.)*\")"
_find_last_element = re.compile(rf"(?:^|,)[ \t]*({_PAIR}(?:[ \t]*;[ \t]*{_PAIR})*)[ \t]*$", re.ASCII).search
"""Anchored at the end, so that quotes a client has left open do not reach into what a proxy has appended."""
_find_pairs = re.compile(rf"({_TOKEN})=(?:({_TOKEN})|\"((?:[^\"\\]|\\.)*)\")", re.ASCII).findall


class TrustedProxies:
    """Addresses and networks (`10.0.0.1`, `10.0.0.0/8`, `fd00::/8`), `unix`, or `*` for everybody.

    Raises ValueError for what is none of them.
    """

    __slots__ = ("_has_everybody", "_has_unix", "_networks")

    def __init__(self, names: Iterable[str] = ()) -> None:
        listed = {name.strip() for name in names}
        self._has_everybody = EVERYBODY in listed
        self._has_unix = UNIX in listed or self._has_everybody
        self._networks = [_read_network(name) for name in sorted(listed - {EVERYBODY, UNIX})]

    def trust(self, peer: Any) -> bool:
        """Whether a connection's peer, as `socket.getpeername()` gives it, is one of them."""
        if not isinstance(peer, tuple):
            return self._has_unix
        address = _parse_address(peer[0])
        return address is not None and self._trust_address(address)

    def _trust_address(self, address: _Address) -> bool:
        return self._has_everybody or any(address in network for network in self._networks)

    def find_client(self, headers: Mapping[str, str]) -> tuple[str, int] | tuple[str, int, int, int] | None:
        """Return the client's address, with port 0, from the headers of a request whose peer is trusted.

        None if they name none that can be believed. If all that they name are trusted it is the first.
        """
        lists = [
            read(headers[name])
            for name, read in (("x-forwarded-for", _read_forwarded_for), ("forwarded", _read_forwarded))
            if name in headers
        ]
        found = {self._walk(hops) for hops in lists}
        if len(found) != 1:
            return None
        (address,) = found
        if address is None:
            return None
        return (str(address), 0) if address.version == 4 else (str(address), 0, 0, 0)

    def _walk(self, hops: Iterator[str]) -> _Address | None:
        nearest = None
        for hop in hops:
            address = _parse_hop(hop)
            if address is None:
                break
            nearest = address
            if not self._trust_address(address):
                break
        return nearest


def _read_network(name: str) -> _Network:
    """Return the network in the form that peers are compared with; ValueError if there is none that has an effect."""
    try:
        network = ipaddress.ip_network(name)
    except ValueError as error:
        raise ValueError(f"forwarded_allow_ips: {error}{_advise(name)}") from None
    if "%" in name:
        raise ValueError(f"forwarded_allow_ips: {name}: the zone of an address is not looked at, leave it out")
    if network.num_addresses == 1 and network.network_address.is_unspecified:
        raise ValueError(f"forwarded_allow_ips: nobody is {name}; for everybody it is {name}/0, or `*`")
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= IPV4_MAPPED_BITS:    # as the addresses of peers: _parse_address
        return ipaddress.ip_network((mapped, network.prefixlen - IPV4_MAPPED_BITS))
    return network


def _advise(name: str) -> str:
    """Say more about a spelling that is often tried."""
    if name.rstrip(":/").lower() == UNIX or name.startswith("unix:"):
        return f": the peers of Unix sockets are `{UNIX}`"
    if name.startswith("["):
        return ": write an IPv6 address without brackets"
    with contextlib.suppress(ValueError):
        return f": write {ipaddress.ip_network(name, strict=False)}"
    return ""


def _parse_address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # What a socket of both families calls an IPv4 peer (RFC 4291 section 2.5.5.2).
    return getattr(address, "ipv4_mapped", None) or address


def _parse_hop(hop: str) -> _Address | None:
    parts = _read_hop(hop)
    return None if parts is None else _parse_address(parts[1] or parts[2] or parts[3])


def _read_forwarded_for(value: str) -> Iterator[str]:
    hops = value.split(",")
    return (hop.strip(" \t") for hop in hops[: -MAX_HOPS - 1 : -1])


def _read_forwarded(value: str) -> Iterator[str]:
    """Each element's `for` (RFC 7239 section 4), from the end; one without it is a hop that cannot be read."""
    for _ in range(MAX_HOPS):
        element = _find_last_element(value, max(0, len(value) - MAX_ELEMENT_CHARACTERS))
        if element is None:
            return
        # Names are compared without regard to case; a quoted address has nothing that needs a backslash.
        pairs = {name.lower(): token or quoted for name, token, quoted in _find_pairs(element[1])}
        yield pairs.get("for", "")
        value = value[: element.start()]
