"""A connection before its 101: the request's head is read, checked, and answered.

    accepted socket -> Handshake --(handshake is right, authorize says yes)--> the 101, and a Client takes over
                         `--(anything else)--> one HTTP response, the peer reads it, the connection is closed

Invariants

1. A head has at most `max_head_bytes`, `max_head_lines` and `handshake_seconds`, an async authorize hook
   `authorize_seconds`: pending.py. What comes behind the head before its answer has at most `max_head_bytes`, too.
2. Every refusal is an HTTP status with a short body, counted by status, and by the limit or rule that was broken.
3. After an answer the connection lingers: closing a socket with unread input resets it, and the peer loses the answer.
4. What is counted by address, or shown to the hook, is whom trusted proxies say the connection is from: proxies.py.

It is compiled for reconnect storms, in which thousands of these live for some microseconds each.
"""

from fastbcast.connection._client cimport Client
from fastbcast.fanout._wire cimport finish_writing, shut_down
from fastbcast.http._request_head cimport HeadParser
from fastbcast.http._rules cimport (
    choose_subprotocol, encode_upgrade, find_fault, find_request_fault, is_handshake, split_target
)

from fastbcast._guard import guarded
from fastbcast.exceptions import InvalidChannelName, Reject
from fastbcast.failures import end_program, fail_connection, settle
from fastbcast.grant import Grant
from fastbcast.http.admission import name_address
from fastbcast.http.extensions import choose_deflate
from fastbcast.http.responses import Response, encode_response
from fastbcast.http.routes import METHODS, find_route
from fastbcast.logging import log_event
from fastbcast.typing import Request

import asyncio
import inspect
import logging
from functools import partial
from http import HTTPStatus

DEFAULT_CHANNEL = "default"
"""The channel that the path "/" names."""
LINGER_BYTES = 1024 * 1024
"""What an answered peer may still send, say a request's body, before it is cut off."""


def channel_of(str path):
    """Return the channel that a decoded request path names: "/prices" is "prices", "/" is the default."""
    return path.strip("/") or DEFAULT_CHANNEL


cdef class _Base:
    """What Cython wants first: a class without a layout of its own is no base of a compiled one."""


cdef class Handshake(_Base, asyncio.Protocol):
    """One connection until it is upgraded or answered."""

    def __cinit__(self, server, accepted, address):
        self.server = server
        self.accepted = accepted
        self.address = address
        self.data = b""

    # asyncio's side.

    @guarded
    def connection_made(self, transport):
        """Wait for the head, but not for ever, and only if there is room."""
        server = self.server
        self.transport = transport
        # From here on `pause_writing` comes exactly when something could not be written: see _wire.pyx.
        transport.set_write_buffer_limits(high=0)
        if server.is_closing:
            transport.abort()
            return
        has_room = server.handshakes.make_room()
        self.wait_in(server.handshakes.reading)
        # Clients do not expect an answer to a request that they have not sent yet: a refusal waits for it.
        if not has_room:
            self.refusal = "max_handshakes", HTTPStatus.SERVICE_UNAVAILABLE, "too many handshakes"
            return
        limit = server.admission.enter()
        if limit is not None:
            self.refusal = limit, HTTPStatus.SERVICE_UNAVAILABLE, "too many connections"
            return
        self.is_counted = True
        self.is_proxied = server.has_proxies and server.proxies.trust(self.address)
        if not self.is_proxied:     # else the head will tell whom it is from
            self.refusal = self.count_address(False)

    @guarded
    def data_received(self, bytes data):
        """Collect the head."""
        cdef Py_ssize_t searched, known, end, head_bytes, max_head_bytes
        handshakes = self.server.handshakes
        if self.queue is handshakes.lingering:
            self.lingered_bytes += len(data)
            if self.lingered_bytes > LINGER_BYTES:
                self.abort()
            return
        known = len(self.data)
        searched = max(0, known - 3)
        self.data += data
        if self.queue is handshakes.deciding:
            if self.has_hurried():
                self.task.cancel()
                self.refuse_hurry()
            return
        end = self.data.find(b"\r\n\r\n", searched)
        head_bytes = end + 4 if end >= 0 else len(self.data)
        max_head_bytes = self.server.options.max_head_bytes
        if (end if end >= 0 else head_bytes) > max_head_bytes:
            self.refuse("max_head_bytes", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        # The empty line is none of it.
        if self.data.count(b"\n", 0, head_bytes) > self.server.options.max_head_lines + 1:
            self.refuse("max_head_lines", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        if self.parser is None:
            self.parser = HeadParser()
            self.head = self.parser.head
        # What cannot be a request is answered now: say a TLS hello, after which its client waits for the server's.
        if not self.parser.feed(self.data[known:head_bytes]):
            self.refuse_malformed()
        elif end >= 0:
            # llhttp reads RTSP and ICE, too, and a line without a version, or none; it skips a line break before the line.
            if self.data.rfind(b" HTTP/", 0, self.data.find(b"\r\n", 2)) < 0:
                self.head.fault = "a request is HTTP/1.1 or HTTP/1.0"
                self.refuse_malformed()
                return
            self.data = self.data[head_bytes:]
            self.receive_head()

    @guarded
    def eof_received(self):
        """The peer sent FIN. True if it may still wait for an answer; the Transport goes on writing then.

        A client of plain HTTP may send FIN behind the request, and read on (RFC 9293 section 3.6). A WebSocket client
        may not: it could not answer a CLOSE (RFC 6455 section 7.1.2), so it has left, and its hook is cancelled.
        """
        self.is_half_closed = self.queue is self.server.handshakes.deciding and not self.is_handshake
        return self.is_half_closed

    def expect_plain_http(self):
        """Called by Tls: what comes is not encrypted, and its request is answered with a refusal in plain HTTP."""
        if self.refusal is None:
            self.refusal = "tls", HTTPStatus.BAD_REQUEST, "this port speaks TLS: use https:// or wss://"

    def connection_lost(self, exc):
        """The peer gave up, or it was answered."""
        self.leave_queue()
        self.stop_counting()
        if self.task is not None:
            self.task.cancel()
            self.task = None
        shut_down(self.accepted.fileno())

    # The decision.

    cdef int receive_head(self) except -1:
        head = self.head
        self.parser = None
        if self.refusal is None and self.is_proxied:
            self.refusal = self.find_address()
        if self.refusal is not None:
            return self.refuse_as_decided()
        fault = find_request_fault(head.headers, head.http_version)
        if fault is not None:
            self.answer(HTTPStatus.BAD_REQUEST, fault)
            return 0
        if head.method not in METHODS:
            self.answer(HTTPStatus.METHOD_NOT_ALLOWED, "", {"Allow": "GET, HEAD"})
            return 0
        if head.http_version != "1.1" and head.http_version != "1.0":
            self.answer(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
            return 0
        request = self.read_request()
        if request is None:
            return 0
        self.is_handshake = is_handshake(head.method, head.headers)
        if self.is_handshake:
            refusal = find_fault(head.headers, head.http_version)
            if refusal is not None:
                status, reason = refusal
                self.answer(status, reason)
            elif not self.server.origins.allow(head.headers.get("origin")):
                self.refuse("origins", HTTPStatus.FORBIDDEN, "this origin may not connect")
            else:
                self.authorize(request)
        else:
            self.route = find_route(self.server.routes, request)
            if self.route.is_authorized:
                self.authorize(request)
            else:
                self.respond(self.route.answer(request))
        return 0

    cdef object read_request(self):
        try:
            path, query = split_target(self.head.url)
        except ValueError:
            self.answer(HTTPStatus.BAD_REQUEST, "malformed request target")
            return None
        channel = channel_of(path)
        try:
            self.server.hub.check_channel_name(channel)
        except InvalidChannelName as error:
            self.refuse("channel_name", HTTPStatus.BAD_REQUEST, f"not a channel's name: {error.reason}")
            return None
        return Request(path, query, self.head.headers, self.address, channel)

    cdef int authorize(self, request) except -1:
        """Admit it if the hook lets it pass."""
        server = self.server
        hook = server.hub.authorize_hook
        if self.has_hurried():
            self.refuse_hurry()
            return 0
        if hook is None:
            return self.admit(request, None)
        try:
            result = hook(request)
            if not isinstance(result, Grant) and inspect.isawaitable(result):
                # A Future or Task may be others' as well: it is not cancelled with this.
                decision = asyncio.shield(result) if asyncio.isfuture(result) else result
                self.task = server.hub.loop.create_task(settle(decision))
        except BaseException as error:
            return self.reject(error)
        if self.task is None:
            return self.admit(request, result)
        self.wait_in(server.handshakes.deciding)
        self.task.add_done_callback(partial(self._receive_decision, request, result))
        return 0

    @guarded
    def _receive_decision(self, request, awaitable, task):
        if not task.cancelled():
            result, error = task.result()
        else:   # before it began
            result, error = None, asyncio.CancelledError()
            if inspect.iscoroutine(awaitable):
                awaitable.close()
        # It was answered meanwhile, or the client has left: the hook was cancelled, and may have gone on, or failed.
        if self.queue is not self.server.handshakes.deciding or self.transport.is_closing():
            if error is not None and not isinstance(error, Reject | asyncio.CancelledError):
                self.tell_failure(error)
            return
        if error is None:
            self.admit(request, result)
        else:
            self.reject(error)

    cdef int reject(self, error) except -1:
        if isinstance(error, Reject):
            return self.refuse("authorize", error.status, error.reason, error.headers)
        self.tell_failure(error)
        return self.answer(HTTPStatus.INTERNAL_SERVER_ERROR)

    cdef int tell_failure(self, error) except -1:
        log_event(logging.ERROR, "authorize_failed", exception=error)
        end_program(error)
        return 0

    cdef int admit(self, request, granted) except -1:
        """The hook has `granted` what was asked for; not if that is nothing of the channel of its path."""
        cdef str channel = request.channel
        server = self.server
        if server.options.subscribe_path:
            if isinstance(granted, Grant) and not granted.may_subscribe(channel) and not granted.may_publish(channel):
                return self.refuse("authorize", HTTPStatus.FORBIDDEN, "not this channel")
            if self.is_handshake and not server.hub.has_room_for(channel):
                return self.refuse("max_channels", HTTPStatus.SERVICE_UNAVAILABLE, "too many channels")
        if self.is_handshake:
            return self.upgrade(channel, granted)
        return self.respond(self.route.answer(request))

    cdef int upgrade(self, str channel, granted) except -1:
        """Answer with the 101: the connection is a Client's from now on."""
        cdef Client client
        cdef str form = "off"
        cdef str extension = None
        server = self.server
        rights = granted if isinstance(granted, Grant) else None
        identity = granted if rights is None else rights.identity
        self.leave_queue()
        client = Client(
            server.hub.context, self.transport, self.accepted.fileno(), channel, identity, server.on_client_gone
        )
        client.rights = rights
        client.subprotocol = choose_subprotocol(self.head.headers, server.options.subprotocols)
        if self.is_proxied:
            client.forwarded_address = self.address
        deflate = self.negotiate_deflate()
        if deflate is not None:
            extension = str(deflate)
            form = "deflate" if deflate.server_no_context_takeover else server.options.compression
            client._negotiate(deflate, form == "window")
        response = encode_upgrade(self.head.headers["sec-websocket-key"], client.subprotocol, extension)
        server.let_in(client, response, self.data, form, self.counted_as)
        return 0

    cdef object negotiate_deflate(self):
        cdef str offers = self.head.headers.get("sec-websocket-extensions")
        options = self.server.options
        if offers is None or options.compression == "off":
            return None
        return choose_deflate(offers, client_no_context_takeover=options.client_no_context_takeover)

    # Limits.

    cdef bint has_hurried(self) except -1:
        """Whether too much came behind the head: it is kept until the hook has decided."""
        return len(self.data) > self.server.options.max_head_bytes

    cdef int refuse_hurry(self) except -1:
        # RFC 6455 section 4.1: a client waits for the answer before it sends anything more.
        return self.refuse("max_head_bytes", HTTPStatus.BAD_REQUEST, "too much was sent before the answer")

    cdef tuple find_address(self):
        """Learn from a trusted proxy's headers whom this is from, and count that; a refusal, or None."""
        cdef dict headers = self.head.headers
        cdef bint is_forwarded = "x-forwarded-for" in headers or "forwarded" in headers
        if is_forwarded:
            self.address = self.server.proxies.find_client(headers) or self.address
        return self.count_address(is_forwarded)

    cdef tuple count_address(self, bint is_forwarded):
        name = name_address(self.address, is_forwarded=is_forwarded)
        if name is None:
            return None
        limit = self.server.admission.enter_address(name)
        if limit is not None:
            # It is not counted at all, or a refused one that waits for its answer would keep out another.
            self.stop_counting()
            return limit, HTTPStatus.TOO_MANY_REQUESTS, "too many connections from this address"
        self.counted_as = name
        return None

    cdef int stop_counting(self) except -1:
        if self.is_counted:
            self.is_counted = False
            self.server.admission.leave(self.counted_as)
        return 0

    # The answer.

    cdef int refuse(self, str cause, status, reason="", headers=None) except -1:
        """Answer, and count the limit or rule that was broken."""
        self.server.refused[cause] += 1
        return self.answer(status, reason, headers)

    cdef int refuse_malformed(self) except -1:
        if self.refusal is not None:
            return self.refuse_as_decided()
        return self.answer(HTTPStatus.BAD_REQUEST, self.head.fault)

    cdef int refuse_as_decided(self) except -1:
        cause, status, reason = self.refusal
        return self.refuse(cause, status, reason)

    cdef int answer(self, status, str body="", headers=None) except -1:
        """Answer with a short text, or the status' own phrase."""
        return self.respond(Response(status, body, headers or {}))

    cdef int respond(self, response) except -1:
        """Answer and close: one request a connection."""
        cdef bint has_body = self.head is None or self.head.method != b"HEAD"
        if self.transport.is_closing():     # the peer is gone
            return 0
        self.server.responses[int(response.status)] += 1
        self.stop_counting()
        self.wait_in(self.server.handshakes.lingering)
        self.data = b""     # of no use any more, and it may linger
        self.transport.write(encode_response(response, has_body=has_body))
        if self.is_half_closed:
            self.transport.close()
        else:
            finish_writing(self.transport)  # the peer's FIN ends it
        return 0

    # What PendingHandshakes does.

    def refuse_slow_head(self):
        """The head is not there in time."""
        if self.refusal is None:
            self.refuse("handshake_seconds", HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.refuse_as_decided()

    def refuse_slow_decision(self):
        """The authorize hook takes too long."""
        self.task.cancel()
        self.refuse("authorize_seconds", HTTPStatus.SERVICE_UNAVAILABLE, "the authorize hook took too long")

    def cut_off(self):
        """Make room for another connection."""
        if self.queue is self.server.handshakes.reading:
            self.server.refused["max_handshakes"] += 1
        self.abort()

    def abort(self):
        """Cut the connection off."""
        self.leave_queue()
        self.transport.abort()

    def _fail(self, error):
        fail_connection(self.transport, error)

    cdef int wait_in(self, queue) except -1:
        self.leave_queue()
        self.queue = queue
        queue.add(self)
        return 0

    cdef int leave_queue(self) except -1:
        if self.queue is not None:
            self.queue.discard(self)
            self.queue = None
        return 0
