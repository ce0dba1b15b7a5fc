"""One connection: picows' frames become messages, and the life of a client ends exactly once.

    picows WSProtocol --on_ws_frame--> Client --message--> hub's handlers
                                         |
              slots in channels <--------+--------> Wire (direct frames, pongs, CLOSE)

Invariants

1. This is the only module that cimports picows. picows parses; it never writes by itself (`Wire` is the
   Transport it knows), and its listener callbacks run no user code but the hub's handlers.
2. A client leaves all its channels before its CLOSE is written, and in `on_ws_disconnected` at the latest.
3. `disconnected` is set once, by whatever ended the connection first, and every end has a deadline: a peer
   that does not take the CLOSE or does not answer it is aborted after `close_seconds`.
4. What arrives is checked here as RFC 6455 asks: reserved bits, the order of fragments, UTF-8 of whole
   messages, close codes. picows has checked masks, opcodes, lengths and sizes of single frames.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_Realloc
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset
from picows.picows cimport WSFrame, WSListener, WSTransport

from fastbcast._fanout cimport BEFORE_CLOSE, BEFORE_DIRECT, ON_RESUME, Fanout, Occasion
from fastbcast._frames cimport (
    OPCODE_CLOSE,
    OPCODE_CONTINUATION,
    OPCODE_PING,
    OPCODE_PONG,
    OPCODE_TEXT,
    encode,
    encode_close,
    is_sendable_close_code,
    make_frame,
)
from fastbcast._clock cimport coarse_ns
from fastbcast._roster cimport LagTotals, Subscription, lag_seconds
from fastbcast._wire cimport CLOSED, PAUSED, WRITABLE, Wire

from fastbcast.typing import Disconnect, Lag, Missed

import logging
from os import strerror

from picows.picows import WSAutoPingStrategy, WSProtocol

_logger = logging.getLogger("fastbcast")

# picows' smallest: it grows with what a client sends.
READ_BUFFER_BYTES = 2048
# What is read of one client before the others have their turn: a batch of a busy publisher, but only a little
# of a client whose last read brought more than MANY_FRAMES, since each costs about a microsecond.
READ_BYTES = 65536
READ_BYTES_OF_TINY_FRAMES = 4096
MANY_FRAMES = 256

cdef enum:
    # What picows' scratch buffer for sends shrinks to: after the 101 it writes only a CLOSE.
    SCRATCH_BYTES = 16

# Close frames are control frames: reason and code together have 125 bytes (section 5.5).
MAX_REASON_BYTES = 123


cdef class Client(WSListener):
    """A connected client. Its methods belong to the event loop's thread (WrongThread otherwise)."""

    def __cinit__(self, hub, server, transport, accepted_socket, str channel, identity):
        self.hub = hub
        self.server = server
        self._read_limit = READ_BYTES
        self.channel = channel
        self.identity = identity
        self.wire = Wire(self, transport, accepted_socket, hub.max_direct_bytes)

    def _upgrade(self, bytes key, bytes early_data):
        """Make picows this connection's Protocol and let it answer the handshake.

        The server has checked the client's request; picows is shown the plain one it stands for, with the
        client's `key` and what the client had sent already behind its request (`early_data`).
        Everything that is known of WSProtocol's undocumented constructor is here. Returns False, and has
        changed nothing, if the peer is gone already.
        """
        protocol = Protocol(
            None,                               # host_port
            None,                               # ws_path
            False,                              # is_client_side
            self._get_listener,                 # ws_listener_factory
            _PICOWS_LOGGER,                     # logger
            True,                               # disconnect_on_exception
            None,                               # websocket_handshake_timeout: the server has its own
            False, 0, 0, WSAutoPingStrategy.PING_WHEN_IDLE,  # auto_ping: a task for each connection
            False,                              # enable_auto_pong: would leave the one ordered writer
            self.hub.max_message_bytes,         # max_frame_size
            None,                               # extra_headers
            READ_BUFFER_BYTES,                  # read_buffer_init_size
        )
        cdef object transport = self.wire.transport
        cdef object data = memoryview(_PLAIN_REQUEST % key + early_data)
        try:
            protocol.connection_made(self.wire)
        except OSError:  # macOS refuses setsockopt on a socket whose peer is gone
            return False
        transport.set_protocol(protocol)
        while data and self.wire.transport is not None and not transport.is_closing():
            buffer = protocol.get_buffer(len(data))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            protocol.buffer_updated(size)
            data = data[size:]
        return True

    def _get_listener(self, request):
        return self

    # The application's side.

    @property
    def remote_address(self):
        """The peer's address, as `socket.getpeername()` gives it."""
        if self.wire.transport is not None:
            return self.wire.transport.get_extra_info("peername")
        return self._last_address

    @property
    def state(self):
        """A dict of the application's own, empty at first."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def channels(self):
        """The names of the channels this client is subscribed to (tuple of str)."""
        return () if self.subscriptions is None else tuple(self.subscriptions)

    @property
    def is_open(self):
        """Whether messages can still be sent: no CLOSE was sent or received, and the connection is there."""
        return self.is_upgraded and self.disconnected is None and self.wire.socket.state != CLOSED

    @property
    def is_writing_paused(self):
        """Whether the kernel refused what was last written: the client does not keep up at the moment."""
        return self.wire.is_writing_paused

    @property
    def lag(self):
        """How far behind the client is, over all its channels: Lag(bytes, messages, seconds)."""
        cdef LagTotals totals
        cdef Subscription subscription
        self.hub.check_thread("client.lag")
        memset(&totals, 0, sizeof(LagTotals))
        if self.subscriptions is not None:
            for subscription in self.subscriptions.values():
                subscription.channel.add_lag(&subscription.channel.slots[subscription.index], &totals)
        return Lag(totals.bytes + self.wire.waiting_bytes(), totals.messages, lag_seconds(&totals))

    @property
    def missed(self):
        """Messages of its channels that it will not get: Missed(skipped, conflated), since it subscribed.

        Of a client that is gone: of the channels it was in at the end.
        """
        cdef Subscription subscription
        cdef uint64_t skipped = self.skipped
        cdef uint64_t conflated = self.conflated
        if self.subscriptions is not None:
            for subscription in self.subscriptions.values():
                skipped += subscription.place.skipped
                conflated += subscription.place.conflated
        return Missed(skipped, conflated)

    def subscribe(self, str channel):
        """Receive what is published to `channel` from now on. Does nothing if it is subscribed already.

        Returns whether the client is subscribed now: False if it is already on its way out. Raises
        TooManyChannels if the hub has `max_channels` and this would be one more, and WrongThread.
        """
        cdef Fanout fanout
        self.hub.check_thread("client.subscribe")
        if not self.is_open:
            return False
        if self.subscriptions is None:
            self.subscriptions = {}
        if channel not in self.subscriptions:
            fanout = self.hub.channel(channel)
            self.subscriptions[fanout.name] = fanout.subscribe(self.wire)
            if fanout.name == self.channel:
                self.channel = fanout.name  # one str for all of a channel's clients
        return True

    def unsubscribe(self, str channel):
        """Receive nothing more of `channel`; returns whether it was subscribed."""
        cdef Subscription subscription
        self.hub.check_thread("client.unsubscribe")
        if self.subscriptions is None or channel not in self.subscriptions:
            return False
        subscription = self.subscriptions.pop(channel)
        (<Fanout>subscription.channel).unsubscribe(subscription, False)
        return True

    def send(self, message, *, text=None):
        """Send `message` to this client alone; str as text, bytes-like as binary (or text with `text=True`).

        What its channels still have for it goes out first, unless it is behind, or a channel's limit of the rate
        holds it back: then a direct message may overtake that backlog. Returns False, and sends nothing, if the
        client is on its way out. A client that lets more than `max_direct_bytes` wait is closed with 1013.

        Raises TypeError, ValueError, MessageTooBig as `publish` does, and WrongThread.
        """
        cdef bytes frame
        self.hub.check_thread("client.send")
        frame = encode(message, text, self.hub.max_message_bytes)
        if not self.is_open:
            return False
        self._catch_up_all(BEFORE_DIRECT)
        return self.wire.write_frame(frame)

    def close(self, code=1000, str reason=""):
        """Close the connection: CLOSE with `code` and `reason`, then the peer has `close_seconds` to answer.

        What was published to its channels before goes out first, unless the client is behind; no limit of the rate
        holds it back. Does nothing if it is closing already. Raises ValueError for a code that may not be sent
        (RFC 6455 section 7.4) or a reason above 123 bytes.
        """
        self.hub.check_thread("client.close")
        self._begin_close(code, reason, "application")

    def abort(self):
        """Close the connection at once, without a CLOSE frame."""
        self.hub.check_thread("client.abort")
        self._abort("", "server", "aborted")

    def _pause_reading(self):
        """Stop reading from the socket, so that TCP holds the peer back."""
        if not self.is_reading_paused and self.wire.transport is not None and not self.wire.transport.is_closing():
            self.is_reading_paused = True
            self.wire.transport.pause_reading()

    def _resume_reading(self):
        """Go on reading."""
        if self.is_reading_paused:
            self.is_reading_paused = False
            if self.wire.transport is not None and not self.wire.transport.is_closing():
                self.wire.transport.resume_reading()

    # What the hub, the wire and the sweep ask for.

    def _close_because(self, int code, str reason, str cause):
        """Close for a reason of the server's own (counted under `cause`)."""
        self._begin_close(code, reason, cause)

    def _close_when_caught_up(self, int code, str reason, str cause):
        """The same, unless the socket is full: it has not got yet what comes before the CLOSE. Returns whether."""
        self._catch_up_all(BEFORE_CLOSE)
        if self.wire.socket.state != WRITABLE:
            return False
        self._begin_close(code, reason, cause)
        return True

    def _evict(self, str cause):
        """The client does not keep up (counted under `cause`)."""
        self._leave_all(True)
        self._begin_close(1013, "slow consumer", cause)

    def _evict_now(self, str cause):
        """The same without waiting for the Transport, which holds memory that is needed."""
        self._end_as(1006, "slow consumer", "server", cause)
        self._leave_all(True)
        self.wire.abort_connection()

    def _direct_overflow(self):
        """More than `max_direct_bytes` of direct messages wait for the client."""
        self._evict("direct_overflow")

    def _stalled_seconds(self):
        """For how long the kernel has taken nothing of what waits for this client, as seen by this method."""
        return self.wire.stalled_ns(coarse_ns()) / 1e9

    @property
    def _viewed(self):
        """The Segment that the Transport was given a view of and that is still in memory, or None."""
        return None if self.wire.viewed is None else self.wire.viewed()

    def _channels_behind(self):
        """The channels that have messages for this client which it was not sent."""
        cdef Subscription subscription
        if self.subscriptions is None:
            return []
        return [
            subscription.channel for subscription in self.subscriptions.values()
            if subscription.channel.is_behind(subscription)
        ]

    def _send_failed(self, int error):
        """send(2) failed with errno `error`: the connection is gone, whatever the Transport thinks."""
        self._abort(strerror(error), "network", "send_failed")

    def _protocol_failed(self, bytes close_frame):
        """picows found a protocol error and wants to write this CLOSE (made by itself)."""
        cdef bytes payload = close_frame[4 if close_frame[1] == 126 else 2:]
        cdef int code = int.from_bytes(payload[:2], "big")
        self._begin_close(
            code,
            payload[2:2 + MAX_REASON_BYTES].decode("utf-8", "ignore"),
            {1007: "invalid_text", 1009: "message_too_big"}.get(code, "protocol_error"),
        )
        # picows closes in 10 ms; until then it would go on collecting what it does not parse any more.
        self._pause_reading()

    def _end_as(self, int code, str reason, str by, str cause):
        if self.disconnected is None:
            self.disconnected = Disconnect(code, reason, by, cause)

    def _close_overdue(self):
        self.close_timer = None
        self.wire.abort_connection()

    cdef int _abort(self, str reason, str by, str cause) except -1:
        self._end_as(1006, reason, by, cause)
        self._leave_all(False)
        self.wire.abort_connection()
        return 0

    cdef int _leave_all(self, bint is_evicted) except -1:
        cdef Subscription subscription
        while self.subscriptions:   # one that raises does not keep those behind it for ever
            subscription = self.subscriptions.popitem()[1]
            self.skipped += subscription.place.skipped
            self.conflated += subscription.place.conflated
            (<Fanout>subscription.channel).unsubscribe(subscription, is_evicted)
        self.subscriptions = None
        return 0

    cdef int _catch_up_all(self, Occasion occasion) except -1:
        """Send what its channels have for it; the one that fills the socket comes last the next time."""
        cdef tuple subscriptions
        cdef Subscription subscription
        cdef bint was_writable
        cdef Py_ssize_t first = self.first_served
        cdef Py_ssize_t i
        if self.subscriptions is None:
            return 0
        subscriptions = tuple(self.subscriptions.values())
        for i in range(first, first + len(subscriptions)):
            subscription = subscriptions[i % len(subscriptions)]
            was_writable = self.wire.socket.state == WRITABLE
            (<Fanout>subscription.channel).catch_up(subscription, occasion)
            if was_writable and self.wire.socket.state != WRITABLE:
                self.first_served = (i + 1) % len(subscriptions)
        return 0

    cdef int _begin_close(self, object code, str reason, str cause) except -1:
        cdef bytes frame
        if self.wire.is_close_sent or self.wire.transport is None:
            return 0
        frame = encode_close(code, reason)
        self._catch_up_all(BEFORE_CLOSE)    # what was published before goes out before
        if self.wire.is_close_sent:
            return 0            # it turned out to be too far behind
        self._leave_all(False)
        self._end_as(code, reason, "server", cause)
        self._set_close_timer()                 # first: a Transport may raise
        self.wire.write_close(frame)
        self.parser.is_close_frame_sent = True  # picows must not send another
        self._resume_reading()                  # the peer's CLOSE is still to come
        return 0

    def _end_read(self, Py_ssize_t size):
        """A read of `size` bytes has been handled: if there may be more, the others come first."""
        cdef bint may_be_more = size >= self._read_limit
        self._read_limit = READ_BYTES_OF_TINY_FRAMES if self.frames_in_read > MANY_FRAMES else READ_BYTES
        self.frames_in_read = 0
        if may_be_more and self.wire.transport is not None and not self.wire.transport.is_closing():
            self.wire.transport.pause_reading()
            self.hub.loop.call_soon(self._read_on)

    def _read_on(self):
        if not self.is_reading_paused and self.wire.transport is not None and not self.wire.transport.is_closing():
            self.wire.transport.resume_reading()

    def _peer_finished(self):
        """The peer sent FIN; without a CLOSE before it, that is a lost connection."""
        self._leave_all(False)
        self._set_close_timer()

    def _set_close_timer(self):
        if self.close_timer is None:
            self.close_timer = self.hub.loop.call_later(self.hub.close_seconds, self._close_overdue)

    # picows' side.

    cpdef on_ws_connected(self, WSTransport transport):
        self.parser = transport
        self.is_upgraded = True
        self.wire.accepted_socket = None
        # Nobody reads these again: they are most of what picows holds for an idle connection.
        transport.request = None
        transport.response = None
        transport.listener_proxy = None
        transport.disconnected_future = _DONE
        transport._write_buffer.data = <char*>PyMem_Realloc(transport._write_buffer.data, SCRATCH_BYTES)
        transport._write_buffer.capacity = SCRATCH_BYTES
        try:
            self.hub.client_connected(self)
        except Exception:
            self._fail()

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        self.frames_in_read += 1
        if self.wire.transport is not None:
            try:
                self._receive_frame(frame)
            except Exception:
                self._fail()

    def _fail(self):
        """An error of our own (handlers' exceptions do not get here) ends this client and no other."""
        _logger.exception("internal error; the client is closed")
        self._begin_close(1011, "internal error", "internal_error")

    cdef int _receive_frame(self, WSFrame frame) except -1:
        cdef int opcode = frame.msg_type
        cdef bytes payload
        if self.disconnected is not None and opcode != OPCODE_CLOSE:  # section 1.4: of no interest behind a CLOSE
            return 0
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._begin_close(1002, "reserved bits are set (RFC 6455 section 5.2)", "protocol_error")
            return 0
        if opcode == OPCODE_CLOSE:
            self._receive_close(frame.get_payload_as_bytes())
            return 0
        payload = frame.get_payload_as_bytes()
        if opcode == OPCODE_PING:
            self.wire.write_pong(make_frame(OPCODE_PONG, <uint8_t*>PyBytes_AS_STRING(payload), len(payload)))
        elif opcode == OPCODE_PONG:
            pass
        elif opcode == OPCODE_CONTINUATION:
            if self.fragments is None:
                self._begin_close(1002, "a continuation without a start (RFC 6455 section 5.4)", "protocol_error")
                return 0
            self.fragment_count += 1
            if len(self.fragments) + len(payload) > self.hub.max_message_bytes:
                self._begin_close(1009, "message too big", "message_too_big")
                return 0
            if self.fragment_count > self.hub.max_fragments:
                self._begin_close(1008, "too many fragments", "too_many_fragments")
                return 0
            self.fragments += payload
            if frame.fin:
                payload = bytes(self.fragments)
                self.fragments = None
                self._receive_data(self.fragments_opcode, payload)
        elif self.fragments is not None:
            self._begin_close(1002, "a new message inside a fragmented one (RFC 6455 section 5.4)", "protocol_error")
        elif frame.fin:
            self._receive_data(opcode, payload)
        else:
            self.fragments = bytearray(payload)
            self.fragments_opcode = opcode
            self.fragment_count = 1
        return 0

    cdef int _receive_data(self, int opcode, bytes payload) except -1:
        cdef object message = payload
        if opcode == OPCODE_TEXT:
            try:
                message = payload.decode()
            except UnicodeDecodeError:
                self._begin_close(1007, "invalid UTF-8 in text", "invalid_text")
                return 0
        self.hub.message_received(self, message)
        return 0

    cdef int _receive_close(self, bytes payload) except -1:
        """Answer the peer's CLOSE with the same code (section 5.5.1), or end what we began."""
        cdef int code = 1005  # section 7.1.5: no code received
        cdef str reason = ""
        if self.wire.is_close_sent:
            self.wire.end()
            return 0
        if payload:
            code = int.from_bytes(payload[:2], "big")
            reason = payload[2:].decode()  # picows has checked length and UTF-8
            if not is_sendable_close_code(code):
                self._begin_close(1002, "invalid close code (RFC 6455 section 7.4)", "protocol_error")
                self.wire.end()
                return 0
        self._leave_all(False)
        self._end_as(code, reason, "client", "client")
        self._set_close_timer()
        self.wire.write_close(encode_close(code) if payload else make_frame(OPCODE_CLOSE, NULL, 0))
        self.parser.is_close_frame_sent = True
        self.wire.end()
        return 0

    cpdef on_ws_disconnected(self, WSTransport transport):
        # The fd is closed right after this: no slot may name it any more.
        self._leave_all(False)
        self._end_as(1006, "", "network", "connection_lost")
        self._last_address = self.remote_address
        self.wire.detach()
        self.parser = None
        self.fragments = None
        if self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = None
        self.hub.client_disconnected(self)

    cpdef pause_writing(self):
        self.wire.pause()
        if self.wire.socket.state == PAUSED:
            self.hub.watch.add(self)

    cpdef resume_writing(self):
        cdef Subscription subscription
        self.wire.resume()
        if self.subscriptions is None:
            return
        for subscription in tuple(self.subscriptions.values()):
            if subscription.place.rest_seq:
                (<Fanout>subscription.channel).resume(subscription)
        self._catch_up_all(ON_RESUME)


_PLAIN_REQUEST = (
    b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
)


class Protocol(WSProtocol):
    """picows' Protocol, made fair: one client's input takes a bounded part of the loop's turn.

    picows reads as much as its buffer holds, and the buffer grows; and uvloop reads again while it is
    filled. A megabyte of tiny frames would keep everybody else waiting for seconds.
    """

    __slots__ = ()

    def get_buffer(self, size_hint):
        buffer = WSProtocol.get_buffer(self, size_hint)
        limit = READ_BYTES if self.listener is None else self.listener._read_limit
        return buffer[:limit] if len(buffer) > limit else buffer

    def buffer_updated(self, size):
        WSProtocol.buffer_updated(self, size)
        if self.listener is not None:
            self.listener._end_read(size)

    def eof_received(self):
        """Let the Transport close itself once its buffer is empty, which may be never."""
        if self.listener is not None:
            self.listener._peer_finished()
        return False


class _PicowsLogger:
    """What picows logs of a connection: nothing, but for exceptions that should not be.

    A protocol error is the client's fault: it is counted by cause and reaches `on_disconnect`.
    """

    def isEnabledFor(self, level):
        return False

    def _ignore(self, *arguments):
        pass

    debug = info = warning = error = log = _ignore

    def exception(self, message, *arguments):
        _logger.exception(message, *arguments)


_PICOWS_LOGGER = _PicowsLogger()


cdef class _Done:
    """Stands for picows' future of the disconnect, which nobody awaits on the server's side."""

    def done(self):
        """Say that there is nothing to set."""
        return True


cdef object _DONE = _Done()
