"""Which web pages may connect: an allow-list of origins (RFC 6455 section 10.2).

A browser sends the page's origin with each handshake, and sends the user's cookies whatever page it is. A server
that trusts cookies must therefore check the origin (cross-site WebSocket hijacking). Other clients send what they like,
or nothing: the origin tells nothing about them, so a request without one passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Origins"]

_match = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?(?P<wild>\*\.)?(?P<host>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
).fullmatch


class Origins:
    """An allow-list; an empty one allows all.

    `https://example.org` is that origin; `https://*.example.org` is every host below example.org, itself not
    included; without a scheme any scheme will do. A port that is not the scheme's own belongs to the
    origin. `null` is what sandboxed pages and files send. Upper and lower case are the same.

    Raises ValueError for what can be no origin.
    """

    __slots__ = ("_exact", "_patterns")

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._exact: set[str] = set()
        self._patterns: list[tuple[str | None, str, bool, str | None]] = []
        for pattern in allowed:
            lowered = pattern.lower()
            parts = _match(lowered)
            if parts is None:
                raise ValueError(f"origins: {pattern!r} is not like https://example.org or https://*.example.org:8443")
            if lowered == "null" or (parts["scheme"] and not parts["wild"]):
                self._exact.add(lowered)
            else:
                self._patterns.append((parts["scheme"], parts["host"], bool(parts["wild"]), parts["port"]))

    def allow(self, origin: str | None) -> bool:
        """Whether a request with this Origin header may come in; None: it has none."""
        if origin is None or not (self._exact or self._patterns):
            return True
        lowered = origin.lower()
        if lowered in self._exact:
            return True
        parts = _match(lowered)
        if parts is None or parts["scheme"] is None or parts["wild"]:
            return False
        return any(
            scheme in (None, parts["scheme"])
            and port == parts["port"]
            and (parts["host"].endswith(f".{host}") if is_wild else parts["host"] == host)
            for scheme, host, is_wild, port in self._patterns
        )
