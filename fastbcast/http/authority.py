"""What a Host header may say: a host and perhaps a port, `uri-host [ ":" port ]` (RFC 9110 section 7.2)."""

from __future__ import annotations

import ipaddress
import re

__all__ = ["is_authority"]

MAX_PORT = 65535

# RFC 3986 section 2: unreserved, sub-delims, pct-encoded.
_PLAIN = r"[A-Za-z0-9\-._~!$&'()*+,;=]"
_ENCODED = "%[0-9A-Fa-f]{2}"
# Section 3.2.2; an IPv4 address is such a name, too. It may be empty (RFC 9112 section 3.2).
_NAME = f"(?:{_PLAIN}|{_ENCODED})*"
_FUTURE = rf"[vV][0-9A-Fa-f]+\.(?:{_PLAIN}|:)+"
# A zone (RFC 6874) means something on the client's machine only, but clients send it; some with a bare percent sign.
_IPV6 = r"(?P<ipv6>[0-9A-Fa-f:.]+)(?:%[A-Za-z0-9\-._~%]+)?"
_match = re.compile(rf"(?:{_NAME}|\[(?:{_IPV6}|{_FUTURE})\])(?::(?P<port>[0-9]*))?").fullmatch


def is_authority(text: str) -> bool:
    """Whether `text` may be the value of a Host header. Several that were joined by ", " may not."""
    parts = _match(text)
    if parts is None:
        return False
    ipv6, port = parts["ipv6"], parts["port"]
    if ipv6 is not None:
        try:
            ipaddress.IPv6Address(ipv6)
        except ValueError:
            return False
    return not port or (len(port) <= 16 and int(port) <= MAX_PORT)
