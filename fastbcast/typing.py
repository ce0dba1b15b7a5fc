"""Types of the public API that hold no logic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Message = str | Buffer

__all__ = ["Disconnect", "Flushed", "Request"]


class Disconnect(NamedTuple):
    """How a connection ended.

    `code` and `reason` are those of the CLOSE that came first (1005: it had none; 1006: there was none).
    `by` says who ended it: "client", "server", or "network" when the connection was lost.
    `cause` says why, one word per cause, the same as in `hub.stats()["disconnects"]`:
    client, application, going_away, slow_consumer, direct_overflow, protocol_error, invalid_text,
    message_too_big, too_many_fragments, handler_error, internal_error, aborted, send_failed,
    connection_lost.
    """

    code: int
    reason: str
    by: Literal["client", "server", "network"]
    cause: str


class Flushed(NamedTuple):
    """What became of the messages published before `flushed()`, counted in subscriptions.

    `written`: the kernel has all of them; `evicted`: too slow, closed with 1013; `left`: unsubscribed, or
    disconnected for another reason, before it had all; `pending`: still behind at the timeout. The four
    add up to the subscriptions there were at the call.
    """

    written: int
    evicted: int
    left: int
    pending: int


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


AuthorizeHook = Callable[[Request], Any]
