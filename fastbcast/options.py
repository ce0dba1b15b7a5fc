"""Settings: each bound has its unit in its name, a default with its reason, and is checked when it is set."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import cast

from .header_fields import is_token

__all__ = ["ChannelOptions", "HubOptions", "ServerOptions"]

KIB = 1024
MIB = 1024 * 1024


def _check(options: object, least: dict[str, float]) -> None:
    for field in fields(options):  # type: ignore[arg-type]
        if field.type not in ("int", "float"):
            continue
        value = getattr(options, field.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{field.name} must be a number, got {value!r}")
        if field.type == "int" and not isinstance(value, int):
            raise TypeError(f"{field.name} must be an int, got {value!r}")
        if not least.get(field.name, 1) <= value < 2**62:
            raise ValueError(f"{field.name} must be at least {least.get(field.name, 1)}, got {value!r}")


def _to_names(option: str, value: object) -> tuple[str, ...]:
    """Any iterable of str but a str, which would be one of its letters."""
    names = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"{option} must be a sequence of str, got {value!r}")
    return cast("tuple[str, ...]", names)


POLICIES = ("evict", "skip", "latest", "conflate")
"""What may become of a subscriber that is too far behind; see `ChannelOptions.policy`."""


COMPRESSIONS = ("off", "deflate", "window")
"""permessage-deflate (RFC 7692): none, each message alone, or one window over a channel's messages for all."""


def _check_compression(options: ChannelOptions | ServerOptions) -> None:
    if options.compression not in COMPRESSIONS:
        raise ValueError(f"compression must be one of {', '.join(COMPRESSIONS)}, got {options.compression!r}")


@dataclass(frozen=True)
class ChannelOptions:
    """What a channel holds for subscribers that are behind, and what becomes of them. Set with `hub.configure`."""

    policy: str = "evict"
    """At a limit: `evict` closes with 1013; `skip` goes on with the oldest message within the limit, `latest` with the
    newest. `conflate` does not wait for a limit: whoever is behind gets only the newest message of every key."""
    max_lag_bytes: int = 1 * MIB
    """The hard limit, for a subscriber that the kernel refused. Precedent: Centrifugo's queue of 1 MiB a client."""
    soft_lag_bytes: int = 256 * KIB
    """A limit that may be passed for `soft_lag_seconds`. Precedent: Redis' soft output buffer limit."""
    soft_lag_seconds: float = 10.0
    """How long a subscriber may stay above `soft_lag_bytes`."""
    max_burst_bytes: int = 16 * MIB
    """How much more a burst may leave a subscriber behind without being held against it."""
    max_unswept_bytes: int = 4 * MIB
    """What may be published before a sweep runs at once instead of at the end of the loop's turn."""
    coalesce_seconds: float = 0.0
    """Wait this long after a publish before sending, to send less often. 0: the end of the loop's turn."""
    max_messages_per_second: float = 0.0
    """Send each subscriber at most so many messages a second, of each key the newest; the channel then conflates,
    whatever its policy. 0: no limit."""
    max_keys: int = 10_000
    """Keys whose newest message a conflating channel keeps (KeysFull above)."""
    max_snapshot_bytes: int = 4 * MIB
    """What those messages may take, and 96 bytes for each of them (KeysFull above)."""
    compression: str = "window"
    """The most that is done for clients that have negotiated permessage-deflate: `off` (a channel with secrets beside
    text that others choose), `deflate` (each message alone), or `window` (one window over the channel's messages)."""
    compression_level: int = 6
    """zlib's, from 1 (fastest) to 9 (smallest)."""
    compress_min_bytes: int = 32
    """Smaller messages go out as they are."""
    window_bits: int = 13
    """The size of the window, 2**window_bits bytes (9 to 15): how far back a message may refer to earlier ones."""
    reset_messages: int = 64
    """How often, at most, the window begins anew so that waiting clients can join: each costs some bytes."""

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {self.policy!r}")
        _check(self, {
            "max_burst_bytes": 0, "coalesce_seconds": 0, "soft_lag_seconds": 0.001, "max_messages_per_second": 0,
            "compress_min_bytes": 0, "window_bits": 9,
        })
        _check_compression(self)
        if self.compression_level > 9:
            raise ValueError(f"compression_level must be at most 9, got {self.compression_level!r}")
        if self.window_bits > 15:
            raise ValueError(f"window_bits must be at most 15, got {self.window_bits!r}")


@dataclass(frozen=True)
class HubOptions:
    """What a hub allows a client, and how long it waits for one."""

    max_message_bytes: int = 1 * MIB
    """The largest message, in either direction: MessageTooBig, or 1009 to the client that sends it. Of a compressed
    one both its bytes on the wire and what comes of them. Precedent: websockets' max_size."""
    max_fragments: int = 16 * 1024
    """Frames a client may cut one message into (1008 above): `max_message_bytes` in frames of 64 bytes. Each costs a
    header's work, and no memory. Precedent: maxFragments of ws (Node), which ends with 1008 as well."""
    max_direct_bytes: int = 1 * MIB
    """What may wait for a client of `client.send()` before it is closed with 1013."""
    max_log_bytes: int = 256 * MIB
    """What the logs of all channels may hold for subscribers that are behind. Above it the furthest behind on the
    largest log are evicted, or jump, as their channel's policy says. Half of it is for the newest messages of keys."""
    max_pinned_bytes: int = 64 * MIB
    """What Transports may hold of messages that the logs have forgotten (rests of large frames). Above it those
    clients that have been blocked for the longest are aborted."""
    max_partial_bytes: int = 64 * MIB
    """What all clients together may have sent of messages that are not whole yet, or that wait for the client's rate or
    inbox; or `max_message_bytes` or what one read brings, if that is more. Above it those that have been at it for the
    longest are closed with 1013."""
    max_window_bytes: int = 64 * MIB
    """What the compressors of all channels' windows may take. A channel that finds no room compresses each message
    alone."""
    max_channels: int = 200_000
    """Channels there may be at once: TooManyChannels, or 503 to the client whose path would make one more."""
    max_channel_name_bytes: int = 255
    """The longest name of a channel, in UTF-8: InvalidChannelName, or 400 to the client whose path it is.
    Precedent: a file's name."""
    channel_name_pattern: str = r"[^?#]+"
    """A regular expression for the whole name of a channel (InvalidChannelName, or 400, otherwise), whose characters
    must be printable, too (or the zero-width joiners that spelling needs). `?` and `#` would end the path of a URL."""
    max_subscriptions: int = 1_000
    """Channels that one client may be subscribed to: TooManySubscriptions. Each costs it a slot and a cursor."""
    max_inbound_messages_per_second: float = 0.0
    """What one client may send, with a second's worth saved up; what is over it waits, here and in the client's socket,
    and nothing is lost. 0: no limit, because on the command line clients may not send at all unless it says so."""
    stall_seconds: float = 60.0
    """A client that takes nothing at all of what waits for it for so long is evicted, under every policy."""
    max_inbox_messages: int = 32
    """Messages that wait for an async handler before reading from the client is paused; fewer, if they come to
    `max_message_bytes`."""
    max_threadsafe_bytes: int = 16 * MIB
    """What `publish_threadsafe` may queue (frames, keys, and 128 bytes for each message) before PublishQueueFull."""
    close_seconds: float = 5.0
    """How long a peer may take to take our CLOSE and to answer it before the connection is aborted."""
    slice_seconds: float = 0.002
    """How long a sweep may run before the loop gets a turn."""

    def __post_init__(self) -> None:
        _check(self, {
            "close_seconds": 0.001, "slice_seconds": 0.0001, "stall_seconds": 0.001,
            "max_inbound_messages_per_second": 0,
        })
        if self.max_fragments >= 2**32:  # the parser counts them in so many bits
            raise ValueError(f"max_fragments must be below 2**32, got {self.max_fragments!r}")
        if not isinstance(self.channel_name_pattern, str):
            raise TypeError(f"channel_name_pattern must be a str, got {self.channel_name_pattern!r}")
        if not self.channel_name_pattern:
            raise ValueError("channel_name_pattern is empty, and allows no name")
        try:
            re.compile(self.channel_name_pattern)
        except re.error as error:
            raise ValueError(f"channel_name_pattern is no regular expression: {error}") from None


@dataclass(frozen=True)
class ServerOptions:
    """What `serve()` allows before a connection is a client, and how it sets up its socket."""

    page: bool = False
    """Answer a browser's GET with a page that shows a channel's messages."""
    subscribe_path: bool = True
    """Subscribe each client to the channel its path names, before `on_connect`."""
    backlog: int = 1024
    """Connections that may wait in the kernel to be accepted."""
    handshake_seconds: float = 10.0
    """How long the head of a request may take (408 above)."""
    max_head_bytes: int = 16 * KIB
    """The largest head of a request (431 above), and what a client may send behind it before its 101 (400 above)."""
    max_head_lines: int = 100
    """Lines of that head (431 above): a line costs more time than its bytes. Precedent: Apache's LimitRequestFields."""
    ping_seconds: float = 25.0
    """A client that was silent for so long, or a fifth less, is pinged; 0: nobody is. Proxies cut connections that
    are idle for 60 s."""
    pong_seconds: float = 20.0
    """How long a client that was pinged may go on being silent before it is closed with 1011. Precedent: websockets'
    ping_timeout."""
    authorize_seconds: float = 5.0
    """How long an async authorize hook may take (503 above). Well above a query, well below a client's patience."""
    max_handshakes: int = 4096
    """Connections before their 101. Above it the one that has been sending its head for the longest is cut off;
    if all wait for the hook, the new one gets 503. Four times the backlog."""
    max_connections: int = 100_000
    """Connections there may be at once (503 above). At 3 KiB each, 300 MB."""
    max_connections_per_address: int = 1000
    """Those from one IPv4 address or IPv6 /64 network (429 above): more than an office behind one address has.
    Loopback and Unix sockets are exempt, unless a trusted proxy names the address."""
    origins: tuple[str, ...] = ()
    """Whose pages may connect (403 for others): `https://example.org`, `https://*.example.org`; empty: all. See
    origins.py."""
    subprotocols: tuple[str, ...] = ()
    """Those that the application speaks, the best first; a client gets the first that it offers, or none."""
    compression: str = "off"
    """permessage-deflate (RFC 7692): `off`, `deflate` (clients get each message compressed alone), or `window` (they
    share a channel's window where they can). A channel's own `compression` may allow less."""
    client_no_context_takeover: bool = True
    """Have clients compress each message alone, so that one inflater serves all. Otherwise about 40 KiB are kept for
    each client, from its first compressed message on, unless it asks to compress each message alone."""
    forwarded_allow_ips: tuple[str, ...] = ()
    """Proxies whose X-Forwarded-For or Forwarded is believed: addresses, networks, `unix`, `*` (see proxies.py).
    Precedent: uvicorn's option of this name."""
    notsent_lowat_bytes: int = 64 * KIB
    """TCP_NOTSENT_LOWAT of each socket, so that a backlog waits in the log, where limits act, and not in kernel
    memory; 0 leaves the kernel's default."""
    send_buffer_bytes: int = 0
    """SO_SNDBUF of each socket, which bounds also what is under way; 0 leaves it to the kernel."""

    def __post_init__(self) -> None:
        _check(self, {
            "notsent_lowat_bytes": 0, "send_buffer_bytes": 0, "handshake_seconds": 0.001, "authorize_seconds": 0.001,
            "ping_seconds": 0, "pong_seconds": 0.001,
        })
        _check_compression(self)
        if 0 < self.ping_seconds < 0.001:
            raise ValueError(f"ping_seconds must be 0 or at least 0.001, got {self.ping_seconds!r}")
        for name in ("origins", "subprotocols", "forwarded_allow_ips"):
            object.__setattr__(self, name, _to_names(name, getattr(self, name)))
        for subprotocol in self.subprotocols:
            if not is_token(subprotocol):
                raise ValueError(f"subprotocols: {subprotocol!r} is no token (RFC 6455 section 4.1)")
        for name in ("notsent_lowat_bytes", "send_buffer_bytes", "backlog"):
            if getattr(self, name) >= 2**31:  # the kernel takes an int
                raise ValueError(f"{name} must be below 2**31, got {getattr(self, name)!r}")
