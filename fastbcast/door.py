"""A connection before its 101: the request's head is read, checked, and answered.

    accepted socket -> Door --(handshake is right, authorize says yes)--> the 101, and a Client takes over
                         `--(anything else)--> one HTTP response, the peer reads it, the connection is closed

Invariants

1. A head has at most `max_head_bytes`, `max_head_lines` and `handshake_seconds`, an async authorize hook
   `authorize_seconds`: lobby.py. What comes behind the head before its answer has at most `max_head_bytes`, too.
2. Every refusal is an HTTP status with a short body, counted by status, and by the limit or rule that was broken.
3. After an answer the connection lingers: closing a socket with unread input resets it, and the peer loses the answer.
4. What is counted by address, or shown to the hook, is whom trusted proxies say the connection is from: proxies.py.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from .admission import name_address
from .exceptions import InvalidChannelName, Reject
from .handshake import choose_subprotocol, find_fault, split_target
from .log import log_event
from .typing import Request

if TYPE_CHECKING:
    from .deadlines import Deadlines
    from .server import Server

DEFAULT_CHANNEL = "default"
"""The channel that the path "/" names."""
LINGER_BYTES = 1024 * 1024
"""What an answered peer may still send, say a request's body, before it is cut off."""
RETRY_SECONDS = 5
"""When a client that was refused for a limit may come again."""


def channel_of(path: str) -> str:
    """Return the channel that a decoded request path names: "/prices" is "prices", "/" is the default."""
    return path.strip("/") or DEFAULT_CHANNEL


_Refusal = tuple[str, HTTPStatus, str]
"""The limit or rule that was broken, and the answer."""


class Door(asyncio.Protocol):
    """One connection until it is upgraded or answered."""

    __slots__ = (
        "_address", "_counted_as", "_head", "_headers", "_http_version", "_is_counted", "_is_proxied",
        "_lingered_bytes", "_method", "_queue", "_refusal", "_server", "_socket", "_task", "_transport", "_url",
    )

    def __init__(self, server: Server, accepted: socket.socket, address: Any) -> None:
        self._server = server
        self._socket = accepted
        self._address = address                 # as `socket.getpeername()` gives it
        self._head = b""
        self._method = b""                      # from here on: of the head, once it is there
        self._http_version = ""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport
        self._is_proxied = False
        self._is_counted = False
        self._counted_as: str | None = None     # admission's name of the address
        self._queue: Deadlines[Door] | None = None
        self._refusal: _Refusal | None = None   # decided already, told when the request is there
        self._lingered_bytes = 0

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the head, but not for ever, and only if there is room."""
        server = self._server
        self._transport = cast("asyncio.Transport", transport)
        # From here on `pause_writing` comes exactly when something could not be written: see _wire.pyx.
        self._transport.set_write_buffer_limits(high=0)
        if server.is_closing:
            self._transport.abort()
            return
        has_room = server.doors.make_room()
        self._queue = server.doors.reading
        self._queue.add(self)
        # Clients do not expect an answer to a request that they have not sent yet: a refusal waits for it.
        if not has_room:
            self._refusal = "max_handshakes", HTTPStatus.SERVICE_UNAVAILABLE, "too many handshakes"
        elif (limit := server.admission.enter()) is not None:
            self._refusal = limit, HTTPStatus.SERVICE_UNAVAILABLE, "too many connections"
        else:
            self._is_counted = True
            self._is_proxied = server.has_proxies and server.proxies.trust(self._address)
            if not self._is_proxied:    # else the head will tell whom it is from
                self._refusal = self._count_address(is_forwarded=False)

    def data_received(self, data: bytes) -> None:
        """Collect the head."""
        doors = self._server.doors
        if self._queue is doors.lingering:
            self._lingered_bytes += len(data)
            if self._lingered_bytes > LINGER_BYTES:
                self.abort()
            return
        searched = max(0, len(self._head) - 3)
        self._head += data
        if self._queue is doors.deciding:
            if self._has_hurried():
                assert self._task is not None
                self._task.cancel()
                self._refuse_hurry()
            return
        end = self._head.find(b"\r\n\r\n", searched)
        if end < 0 and len(self._head) <= self._server.options.max_head_bytes:
            return
        if end < 0 or end > self._server.options.max_head_bytes:
            self._refuse("max_head_bytes", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        head, self._head = self._head[: end + 4], self._head[end + 4 :]
        if head.count(b"\n") > self._server.options.max_head_lines + 1:    # the empty one is no line of it
            self._refuse("max_head_lines", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        try:
            self._parse(head)
        except HttpParserError as error:
            self._answer(HTTPStatus.BAD_REQUEST, str(error))
        else:
            self._receive_request()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The peer gave up, or it was answered."""
        self._leave_queue()
        self._stop_counting()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def pause_writing(self) -> None:
        """Nothing: an answer is one write."""

    resume_writing = pause_writing

    # httptools' side.

    def _parse(self, head: bytes) -> None:
        # The parser and this object know each other: it is not kept, or each connection that ends here would leave
        # garbage, its head with it, that only a collection finds.
        parser = HttpRequestParser(self)
        try:
            parser.feed_data(head)
        except HttpParserUpgrade:
            pass
        finally:
            self._method = parser.get_method()
            self._http_version = parser.get_http_version()

    def on_url(self, url: bytes) -> None:
        """Called with the request target, perhaps in pieces."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Join header lines of the same name (RFC 9110 section 5.3)."""
        headers = self._headers
        key = str(name, "latin-1").lower()
        text = str(value, "latin-1").strip(" \t")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    # It asks for each of these; what a class lacks costs it an exception.
    on_message_begin = on_headers_complete = on_body = on_message_complete = None
    on_chunk_header = on_chunk_complete = on_status = None

    # The decision.

    def _receive_request(self) -> None:
        if self._refusal is None and self._is_proxied:
            self._refusal = self._find_address()
        if self._refusal is not None:
            self._refuse(*self._refusal)
            return
        if not self._url:
            self._answer(HTTPStatus.BAD_REQUEST, "no request line")
            return
        if self._method not in (b"GET", b"HEAD"):
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET, HEAD"})
            return
        request = self._read_request()
        if request is None:
            return
        if "upgrade" in self._headers and self._method == b"GET":
            self._receive_handshake(request)
        elif self._server.tells_listeners(request):
            self._authorize(request, self._tell_listeners)
        else:
            status, content_type, body = self._server.respond(request)
            self._answer(status, body, {"Content-Type": content_type} if content_type else {})

    def _read_request(self) -> Request | None:
        try:
            path, query = split_target(self._url)
        except ValueError:
            self._answer(HTTPStatus.BAD_REQUEST, "malformed request target")
            return None
        channel = channel_of(path)
        try:
            self._server.hub.check_channel_name(channel)
        except InvalidChannelName as error:
            self._refuse("channel_name", HTTPStatus.BAD_REQUEST, f"not a channel's name: {error.reason}")
            return None
        return Request(path, query, self._headers, self._address, channel)

    def _receive_handshake(self, request: Request) -> None:
        fault = find_fault(self._headers, self._http_version)
        if fault is not None:
            self._answer(*fault)
        elif not self._server.origins.allow(self._headers.get("origin")):
            self._refuse("origins", HTTPStatus.FORBIDDEN, "this origin may not connect")
        else:
            self._authorize(request, self._upgrade)

    def _authorize(self, request: Request, admit: Callable[[Request, Any], None]) -> None:
        """Call `admit` with the request and what the hook returned, if it lets the request pass."""
        hook = self._server.hub.authorize_hook
        if self._has_hurried():
            self._refuse_hurry()
            return
        if hook is None:
            admit(request, None)
            return
        try:
            result = hook(request)
        except Exception as error:
            self._reject(error)
            return
        if inspect.isawaitable(result):
            self._wait_in(self._server.doors.deciding)
            self._task = asyncio.ensure_future(self._await_authorize(request, result, admit))
        else:
            admit(request, result)

    async def _await_authorize(
        self, request: Request, result: Any, admit: Callable[[Request, Any], None]
    ) -> None:
        error = identity = None
        try:
            identity = await result
        except Exception as raised:
            error = raised
        self._task = None
        # Not if it was answered meanwhile, and the hook went on though it was cancelled.
        if self._queue is self._server.doors.deciding and not self._transport.is_closing():
            if error is None:
                admit(request, identity)
            else:
                self._reject(error)

    def _reject(self, error: Exception) -> None:
        if isinstance(error, Reject):
            self._refuse("authorize", error.status, error.reason, error.headers)
        else:
            log_event(logging.ERROR, "authorize_failed", exception=error)
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _upgrade(self, request: Request, granted: Any) -> None:
        server = self._server
        if not self._may_enter(request, granted):
            return
        if server.subscribe_path and not server.hub.has_room_for(request.channel):
            self._refuse("max_channels", HTTPStatus.SERVICE_UNAVAILABLE, "too many channels")
            return
        self._leave_queue()
        if not server.upgrade(
            self._transport,
            self._socket,
            request,
            granted,
            self._head,
            choose_subprotocol(self._headers, server.options.subprotocols),
            self._address if self._is_proxied else None,
            self._counted_as,
        ):
            self._transport.abort()

    def _tell_listeners(self, request: Request, granted: Any) -> None:
        if not self._may_enter(request, granted):
            return
        self._answer(HTTPStatus.OK, self._server.tell_listeners(request), {"Content-Type": "application/json"})

    def _may_enter(self, request: Request, granted: Any) -> bool:
        if self._server.may_enter(request.channel, granted):
            return True
        self._refuse("authorize", HTTPStatus.FORBIDDEN, "not this channel")
        return False

    # Limits.

    def _has_hurried(self) -> bool:
        """Whether too much came behind the head: it is kept until the hook has decided."""
        return len(self._head) > self._server.options.max_head_bytes

    def _refuse_hurry(self) -> None:
        # RFC 6455 section 4.1: a client waits for the answer before it sends anything more.
        self._refuse("max_head_bytes", HTTPStatus.BAD_REQUEST, "too much was sent before the answer")

    def _find_address(self) -> _Refusal | None:
        """Learn from a trusted proxy's headers whom this is from, and count that."""
        is_forwarded = "x-forwarded-for" in self._headers or "forwarded" in self._headers
        if is_forwarded:
            self._address = self._server.proxies.find_client(self._headers) or self._address
        return self._count_address(is_forwarded=is_forwarded)

    def _count_address(self, *, is_forwarded: bool) -> _Refusal | None:
        name = name_address(self._address, is_forwarded=is_forwarded)
        if name is None:
            return None
        limit = self._server.admission.enter_address(name)
        if limit is not None:
            # It is not counted at all, or a refused one that waits for its answer would keep out another.
            self._stop_counting()
            return limit, HTTPStatus.TOO_MANY_REQUESTS, "too many connections from this address"
        self._counted_as = name
        return None

    def _stop_counting(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._server.admission.leave(self._counted_as)

    # The answer.

    def _refuse(
        self, cause: str, status: HTTPStatus, reason: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Answer, and count the limit or rule that was broken."""
        self._server.refused[cause] += 1
        self._answer(status, reason, headers)

    def _answer(self, status: HTTPStatus, body: str | bytes = "", headers: dict[str, str] | None = None) -> None:
        """Answer with `status` and close: one request a connection."""
        if self._transport.is_closing():    # the peer is gone
            return
        self._server.responses[int(status)] += 1
        if isinstance(body, str):
            body = f"{body or status.phrase}\n".encode()
        fields = {"Content-Length": str(len(body)), "Connection": "close", "Content-Type": "text/plain; charset=utf-8"}
        if status == HTTPStatus.UPGRADE_REQUIRED:  # RFC 9110 section 15.5.22, RFC 6455 section 4.4
            fields |= {"Upgrade": "websocket", "Connection": "close, Upgrade", "Sec-WebSocket-Version": "13"}
        elif status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            fields |= {"Retry-After": str(RETRY_SECONDS)}
        elif status == HTTPStatus.UNAUTHORIZED:  # RFC 9110 section 15.5.2
            fields |= {"WWW-Authenticate": "Bearer"}
        lines = [f"{name}: {value}" for name, value in (fields | (headers or {})).items()]
        head = "\r\n".join([f"HTTP/1.1 {status.value} {status.phrase}", *lines, "", ""]).encode()
        self._stop_counting()
        self._wait_in(self._server.doors.lingering)
        self._transport.resume_reading()    # or the peer's end would not be seen
        self._head = b""    # of no use any more, and it may linger
        self._transport.write(head if self._method == b"HEAD" else head + body)
        try:
            if self._transport.can_write_eof():
                self._transport.write_eof()     # the peer's answer to that, or its FIN, ends it
            else:
                self._transport.close()         # TLS has a closing handshake of its own
        except OSError:     # asyncio's shutdown(2): the answer has met a peer that is gone, and was reset
            self.abort()

    # What the lobby does.

    def refuse_slow_head(self) -> None:
        """The head is not there in time."""
        self._refuse(*(self._refusal or ("handshake_seconds", HTTPStatus.REQUEST_TIMEOUT, "")))

    def refuse_slow_decision(self) -> None:
        """The authorize hook takes too long."""
        assert self._task is not None
        self._task.cancel()
        self._refuse("authorize_seconds", HTTPStatus.SERVICE_UNAVAILABLE, "the authorize hook took too long")

    def cut_off(self) -> None:
        """Make room for another connection."""
        if self._queue is self._server.doors.reading:
            self._server.refused["max_handshakes"] += 1
        self.abort()

    def abort(self) -> None:
        """Cut the connection off."""
        self._leave_queue()
        self._transport.abort()

    def _wait_in(self, queue: Deadlines[Door]) -> None:
        self._leave_queue()
        self._queue = queue
        queue.add(self)

    def _leave_queue(self) -> None:
        if self._queue is not None:
            self._queue.discard(self)
            self._queue = None
