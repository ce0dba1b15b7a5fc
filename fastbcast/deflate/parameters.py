"""The parameters of permessage-deflate (RFC 7692 section 7.1) that one connection uses."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Deflate"]


@dataclass(frozen=True, slots=True)
class Deflate:
    """What a client and its server have settled on for permessage-deflate; str() is how the response says it."""

    server_no_context_takeover: bool = False
    """What is sent to the client is compressed message by message, each alone."""
    client_no_context_takeover: bool = False
    """So is what it sends."""
    server_max_window_bits: int | None = None
    """The largest window, 2**bits bytes, of what is sent to it (9 to 15); None: the largest that there is, 15 bits."""

    def __str__(self) -> str:
        parts = ["permessage-deflate"]
        if self.server_no_context_takeover:
            parts.append("server_no_context_takeover")
        if self.client_no_context_takeover:
            parts.append("client_no_context_takeover")
        if self.server_max_window_bits is not None:
            parts.append(f"server_max_window_bits={self.server_max_window_bits}")
        return "; ".join(parts)
