"""Types of the public API that hold no logic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import unquote

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Message = str | Buffer
    Key = str | bytes | int

__all__ = ["Disconnect", "Flushed", "Lag", "Missed", "Request"]


class Disconnect(NamedTuple):
    """How a connection ended.

    `code` and `reason` are those of the CLOSE that came first (1005: it had none; 1006: there was none).
    `by` says who ended it: "client", "server", or "network" when the connection was lost.
    `cause` says why, one word per cause, the same as in `hub.stats()["disconnects"]`:
    client, application, going_away, keepalive, slow_consumer, stalled, log_full, pinned_full, direct_overflow,
    protocol_error, invalid_text, invalid_data, message_too_big, too_many_fragments, partial_full, not_allowed,
    too_many_channels, handler_error, internal_error, aborted, send_failed, connection_lost.
    """

    code: int
    reason: str
    by: Literal["client", "server", "network"]
    cause: str


class Flushed(NamedTuple):
    """What became of a message, counted in the subscribers of its channel when it was published.

    `written`: the kernel has it; `conflated`: a newer one of its key came first; `skipped`: passed over
    because the subscriber was too far behind; `evicted`: the subscriber was closed for being too slow; `left`:
    it unsubscribed, or disconnected for another reason, before it had the message; `pending`: still waiting
    at the timeout. They add up to the subscribers there were, always.
    """

    written: int = 0
    conflated: int = 0
    skipped: int = 0
    evicted: int = 0
    left: int = 0
    pending: int = 0


class Lag(NamedTuple):
    """How far behind a client is: what waits for it, in the logs of its channels and in its Transport.

    `bytes` and `messages` count what was published since the last message it was sent, also where a
    conflating channel will pass some of it over. `seconds` is the age of the oldest message not sent, as
    exact as the kernel's tick (some milliseconds).
    """

    bytes: int
    messages: int
    seconds: float


class LagTotals(NamedTuple):
    """The lag of a channel's subscriptions, in sum."""

    behind: int
    bytes: int
    messages: int
    max_bytes: int
    max_seconds: float
    by_bytes: list[int]


class Missed(NamedTuple):
    """Messages that a client did not get and will not: for being too far behind, or for a newer one of the key."""

    skipped: int
    conflated: int


class Request(NamedTuple):
    """The opening handshake's request, as an authorize hook sees it."""

    path: str
    """The path, percent-decoded, without the query."""
    query: str
    """What follows the question mark, as sent."""
    headers: Mapping[str, str]
    """Header values by lower-case name; lines of the same name are joined by ", "."""
    remote_address: Any
    """As `socket.getpeername()` gives it."""
    channel: str
    """The channel that the path names."""

    @property
    def token(self) -> str | None:
        """What `Authorization: Bearer` carries, else `?token=`, for browsers, whose sockets have no headers of ours."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token.strip(" ") or None
        for field in self.query.split("&"):
            name, _, value = field.partition("=")
            if name == "token":
                return unquote(value) or None
        return None

    def __repr__(self) -> str:
        """Neither headers nor the query: they hold tokens and cookies, and a repr ends up in a log."""
        return f"Request(path={self.path!r}, channel={self.channel!r}, remote_address={self.remote_address!r})"


AuthorizeHook = Callable[[Request], Any]
