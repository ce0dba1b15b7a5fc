"""Which web pages may connect: an allow-list of origins (RFC 6455 section 10.2).

A browser sends the page's origin with each handshake, and sends the user's cookies whatever page it is. A server
that trusts cookies must therefore check the origin (cross-site WebSocket hijacking). Other clients send what they like,
or nothing: the origin tells nothing about them, so a request without one passes.

Patterns are brought into the form in which browsers send an origin (RFC 6454 section 6.2, and the URL standard of the
WHATWG), or refused: none is accepted that no browser can ever match.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

from .authority import MAX_PORT

__all__ = ["Origins"]

_match = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?(?P<wild>\*\.)?(?P<host>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
).fullmatch
_is_number = re.compile(r"[0-9]+|0x[0-9a-f]*").fullmatch

_DEFAULT_PORTS = {"http": 80, "https": 443, "ftp": 21}
_PAGE_SCHEMES = {"ws": "http", "wss": "https"}
"""Of the page, where somebody may write that of the connection."""
_LIKE = "https://example.org or https://*.example.org:8443"


class _Parts(NamedTuple):
    """An origin, or a pattern of some, in its normal form."""

    scheme: str | None  # None: any
    is_wild: bool       # every host below `host`
    host: str
    port: int | None    # None: the scheme's own


class Origins:
    """An allow-list; an empty one allows all.

    `https://example.org` is that origin; `https://*.example.org` is every host below example.org, itself not
    included; without a scheme any scheme will do. A port that is not the scheme's own belongs to the
    origin. `null` is what sandboxed pages and files send. Upper and lower case are the same.

    Raises ValueError for what can be no origin, and says how it is written.
    """

    __slots__ = ("_exact", "_has_null", "_patterns")

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._has_null = False
        self._exact: set[_Parts] = set()
        self._patterns: list[_Parts] = []
        for pattern in allowed:
            if pattern.lower() == "null":
                self._has_null = True
                continue
            parts = _read_pattern(pattern)
            if parts.scheme and not parts.is_wild:
                self._exact.add(parts)
            else:
                self._patterns.append(parts)

    def allow(self, origin: str | None) -> bool:
        """Whether a request with this Origin header may come in; None: it has none."""
        if origin is None or not (self._has_null or self._exact or self._patterns):
            return True
        if origin == "null":
            return self._has_null
        parts = _parse(origin)
        # A browser names no port that is the scheme's own.
        if parts is None or parts.scheme is None or parts.is_wild or parts.port == _DEFAULT_PORTS.get(parts.scheme, -1):
            return False
        return parts in self._exact or any(_matches(parts, pattern) for pattern in self._patterns)


def _matches(origin: _Parts, pattern: _Parts) -> bool:
    scheme = origin.scheme or ""
    return (
        pattern.scheme in (None, scheme)
        and (pattern.port == origin.port or (origin.port is None and pattern.port == _DEFAULT_PORTS.get(scheme, -1)))
        and (origin.host.endswith(f".{pattern.host}") if pattern.is_wild else origin.host == pattern.host)
    )


def _parse(text: str) -> _Parts | None:
    """Take `text` apart; None if a browser would send no origin like it."""
    parts = _match(text.lower())
    if parts is None:
        return None
    host, port = parts["host"], None if parts["port"] is None else int(parts["port"])
    try:
        if host.startswith("["):
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        elif _is_number(host.rpartition(".")[2]):   # then a browser takes it for an IPv4 address, and writes it so
            host = str(ipaddress.IPv4Address(host))
    except ValueError:
        return None
    if port is not None and not 0 < port <= MAX_PORT:
        return None
    return _Parts(parts["scheme"], bool(parts["wild"]), host, port)


def _read_pattern(pattern: str) -> _Parts:
    parts = _parse(pattern)
    if parts is None or (parts.is_wild and (parts.host.startswith("[") or _is_number(parts.host.rpartition(".")[2]))):
        raise ValueError(f"origins: {pattern!r} is not like {_LIKE}{_advise(pattern)}")
    scheme, is_wild, host, port = parts
    if scheme in _PAGE_SCHEMES:
        raise ValueError(f"origins: {pattern!r} is not where a page is: {_PAGE_SCHEMES[scheme]}, and not {scheme}")
    if scheme is not None and port == _DEFAULT_PORTS.get(scheme):
        port = None
    return _Parts(scheme, is_wild, host, port)


def _advise(pattern: str) -> str:
    """Say more about a spelling that is often tried."""
    if pattern == "*":
        return "; without any origin all may connect"
    if not pattern.isascii():
        return "; a browser sends such a name in Punycode (xn--...)"
    if pattern.strip() != pattern or "," in pattern:
        return ": one origin, without blanks"
    if pattern.lower().startswith("file:"):
        return "; the origin of a file is null"
    if re.search(r"[^:/]/", pattern):
        return ", without a path or a slash at the end"
    if pattern.endswith("."):
        return ", without a dot at the end"
    return ""
