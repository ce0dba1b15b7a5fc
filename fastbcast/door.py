"""A connection before its 101: the request's head is read, checked, and answered.

    accepted socket -> Door --(handshake is right, authorize says yes)--> the 101, and a Client takes over
                         `--(anything else)--> one HTTP response, and the connection is closed

Invariants

1. A head has at most `max_head_bytes` and `handshake_seconds`, the authorize hook included.
2. Every refusal is an HTTP status with a short body, counted by status.
"""

from __future__ import annotations

import asyncio
import binascii
import inspect
import logging
import socket
from base64 import b64decode
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url

from .exceptions import Reject
from .typing import Request

if TYPE_CHECKING:
    from .server import Server

_logger = logging.getLogger("fastbcast")

DEFAULT_CHANNEL = "default"
"""The channel that the path "/" names."""
MAX_CHANNEL_NAME_BYTES = 255


def channel_of(path: str) -> str:
    """Return the channel that a decoded request path names: "/prices" is "prices", "/" is the default."""
    return path.strip("/") or DEFAULT_CHANNEL


class Door(asyncio.Protocol):
    """One connection until it is upgraded or answered."""

    __slots__ = ("_deadline", "_head", "_headers", "_parser", "_server", "_socket", "_task", "_transport", "_url")

    def __init__(self, server: Server, accepted: socket.socket) -> None:
        self._server = server
        self._socket = accepted
        self._head = b""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._parser: HttpRequestParser | None = None
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the head, but not for ever."""
        self._transport = cast("asyncio.Transport", transport)
        # From here on `pause_writing` comes exactly when something could not be written: see _wire.pyx.
        self._transport.set_write_buffer_limits(high=0)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._server.options.handshake_seconds, self._too_slow)
        self._server.doors.add(self)
        if self._server.is_closing:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Collect the head."""
        if self._parser is not None:  # behind an answer, or while the hook decides
            if self._task is not None:
                self._head += data
                if len(self._head) > self._server.options.max_head_bytes:
                    self._transport.pause_reading()
            return
        searched = max(0, len(self._head) - 3)
        self._head += data
        end = self._head.find(b"\r\n\r\n", searched)
        if end < 0 and len(self._head) <= self._server.options.max_head_bytes:
            return
        if end < 0 or end > self._server.options.max_head_bytes:
            self._parser = HttpRequestParser(self)
            self._answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        head, self._head = self._head[: end + 4], self._head[end + 4 :]
        self._parser = HttpRequestParser(self)
        try:
            self._parser.feed_data(head)
        except HttpParserUpgrade:
            pass
        except HttpParserError as error:
            self._answer(HTTPStatus.BAD_REQUEST, str(error))
            return
        self._enter()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The peer gave up, or it was answered."""
        self._leave()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Nothing: an answer is one write."""

    resume_writing = pause_writing

    # httptools' side.

    def on_url(self, url: bytes) -> None:
        """Called with the request target, perhaps in pieces."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Join header lines of the same name (RFC 9110 section 5.3)."""
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip(" \t")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    # The decision.

    def _enter(self) -> None:
        assert self._parser is not None
        try:
            url = parse_url(self._url)
            path = unquote_to_bytes(url.path or b"/").decode()
        except (HttpParserError, UnicodeDecodeError, AttributeError):
            self._answer(HTTPStatus.BAD_REQUEST, "malformed request target")
            return
        query = (url.query or b"").decode("latin-1")
        channel = channel_of(path)
        if not channel.isprintable() or len(channel.encode()) > MAX_CHANNEL_NAME_BYTES:
            reason = f"a channel's name is printable and has at most {MAX_CHANNEL_NAME_BYTES} bytes"
            self._answer(HTTPStatus.BAD_REQUEST, reason)
            return
        method = self._parser.get_method()
        request = Request(path, query, self._headers, self._transport.get_extra_info("peername"), channel)
        if method not in (b"GET", b"HEAD"):
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET, HEAD"})
        elif "upgrade" not in self._headers or method == b"HEAD":
            status, content_type, body = self._server.respond(request)
            self._answer(status, body, {"Content-Type": content_type} if content_type else {})
        elif (refusal := self._find_fault()) is not None:
            status, reason = refusal
            self._answer(status, reason)
        else:
            self._authorize(request)

    def _find_fault(self) -> tuple[HTTPStatus, str] | None:
        """Check the handshake as RFC 6455 section 4.2.1 asks; None if it is right."""
        assert self._parser is not None
        headers = self._headers
        if "websocket" not in _tokens(headers["upgrade"]):
            return HTTPStatus.BAD_REQUEST, "can upgrade to websocket only"
        # Older Firefox and proxies send `keep-alive, Upgrade`.
        if "upgrade" not in _tokens(headers.get("connection", "")):
            return HTTPStatus.BAD_REQUEST, "the Connection header lacks upgrade"
        if self._parser.get_http_version() != "1.1":
            return HTTPStatus.BAD_REQUEST, "a WebSocket handshake is HTTP/1.1"
        if "," in headers.get("host", ","):
            return HTTPStatus.BAD_REQUEST, "a request has one Host header"
        if headers.get("sec-websocket-version") != "13":
            return HTTPStatus.UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13"
        try:
            key = b64decode(headers.get("sec-websocket-key", ""), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != 16:
            return HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64"
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            return HTTPStatus.BAD_REQUEST, "a WebSocket handshake has no body"
        return None

    def _authorize(self, request: Request) -> None:
        hook = self._server.hub.authorize_hook
        if hook is None:
            self._upgrade(request, None)
            return
        try:
            result = hook(request)
        except Exception as error:
            self._refuse(error)
            return
        if inspect.isawaitable(result):
            self._task = asyncio.ensure_future(self._await_authorize(request, result))
        else:
            self._upgrade(request, result)

    async def _await_authorize(self, request: Request, result: Any) -> None:
        try:
            identity = await result
        except Exception as error:
            self._task = None
            if not self._transport.is_closing():
                self._refuse(error)
        else:
            self._task = None
            if not self._transport.is_closing():
                self._transport.resume_reading()
                self._upgrade(request, identity)

    def _refuse(self, error: Exception) -> None:
        if isinstance(error, Reject):
            self._answer(error.status, error.reason)
        else:
            _logger.error("the authorize hook failed", exc_info=error)
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _upgrade(self, request: Request, identity: Any) -> None:
        if self._server.subscribe_path and not self._server.hub.has_room_for(request.channel):
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "too many channels")
            return
        self._leave()
        if self._server.upgrade(self._transport, self._socket, request, identity, self._head):
            # uvloop's transport keeps this object's data_received, and so this object, for as long as it
            # lives: what the handshake needed must not stay with it.
            for name in self.__slots__:
                delattr(self, name)
        else:
            self._transport.abort()

    # The answer.

    def _answer(self, status: HTTPStatus, body: str | bytes = "", headers: dict[str, str] | None = None) -> None:
        """Answer with `status` and close: one request a connection."""
        self._server.responses[int(status)] += 1
        if isinstance(body, str):
            body = f"{body or status.phrase}\n".encode()
        fields = {"Content-Length": str(len(body)), "Connection": "close", "Content-Type": "text/plain; charset=utf-8"}
        if status == HTTPStatus.UPGRADE_REQUIRED:  # RFC 9110 section 15.5.22, RFC 6455 section 4.4
            fields |= {"Upgrade": "websocket", "Connection": "close, Upgrade", "Sec-WebSocket-Version": "13"}
        lines = [f"{name}: {value}" for name, value in (fields | (headers or {})).items()]
        head = "\r\n".join([f"HTTP/1.1 {status.value} {status.phrase}", *lines, "", ""]).encode()
        is_head = self._parser is not None and self._parser.get_method() == b"HEAD"
        self._transport.write(head if is_head else head + body)
        self._transport.close()

    def _too_slow(self) -> None:
        if self._transport.is_closing():
            pass
        elif self._task is not None:
            self._task.cancel()
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "the authorize hook took too long")
        elif self._parser is None:
            self._answer(HTTPStatus.REQUEST_TIMEOUT)
        # What does not take its answer is cut off.
        self._deadline = asyncio.get_running_loop().call_later(1, self._transport.abort)

    def _leave(self) -> None:
        self._deadline.cancel()
        self._server.doors.discard(self)

    def abort(self) -> None:
        """Cut the connection off."""
        self._transport.abort()


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]
