"""One connection: what is read becomes messages, and the life of a client ends exactly once.

    Transport --buffer_updated--> Parser --message--> Client --> hub's handlers
                                             |
      slots in channels (Subscriber) <-------+--------> Wire (direct frames, pongs, CLOSE)

Invariants

1. A client is its Transport's Protocol from the 101 on. It reads into a buffer that all clients of its hub share, and
   runs no user code but the hub's handlers.
2. A client leaves all its channels before its CLOSE is written, and in `connection_lost` at the latest.
3. `disconnected` is set once, by whatever ended the connection first, and every end has a deadline: a peer
   that does not take the CLOSE or does not answer it is aborted after `close_seconds`.
4. What a client sends wrongly is answered with the CLOSE that RFC 6455 asks for, behind the answers to what it sent
   before; then the connection is closed for writing, and what else arrives is read and dropped, since a socket
   that is closed with unread input is reset, and takes the CLOSE with it.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.stdint cimport uint8_t

from fastbcast._clock cimport coarse_ns
from fastbcast._frames cimport (
    ABNORMAL_CLOSURE, INTERNAL_ERROR, NO_STATUS_RECEIVED, OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG, TRY_AGAIN_LATER,
    encode, encode_close, make_frame,
)
from fastbcast.connection._context cimport Context
from fastbcast.connection._parser cimport CLOSE, FAILED, MANY_EVENTS, MANY_INFLATED_BYTES, MESSAGE, NOTHING, PING, Event, Parser
from fastbcast.connection._subscriber cimport Subscriber
from fastbcast.deflate._inflate cimport Inflater
from fastbcast.fanout._fanout cimport BEFORE_CLOSE, BEFORE_DIRECT
from fastbcast.fanout._slot cimport PAUSED, WRITABLE
from fastbcast.fanout._wire cimport finish_writing

from fastbcast._guard import guarded
from fastbcast.failures import end_program
from fastbcast.logging import log_event
from fastbcast.typing import Disconnect

import asyncio
import logging
from os import strerror

cdef bytes _PING = make_frame(OPCODE_PING, NULL, 0)     # made once, for all


cdef class Client(Subscriber, asyncio.BufferedProtocol):
    """A connected client. Its methods belong to the event loop's thread (WrongThread otherwise)."""

    def __cinit__(self, Context context not None, transport, int fd, str channel, identity, on_gone):
        self.identity = identity
        self._on_gone = on_gone
        self.parser = Parser(context.max_message_bytes, context.max_fragments)
        self.read_buffer = context.read_buffer

    def _negotiate(self, deflate, bint may_follow_window):
        """The handshake has settled on a Deflate; and whether that lets it follow a window."""
        cdef Inflater inflater = self.context.inflater
        self.deflate = deflate
        self.wire.socket.window_bits = deflate.server_max_window_bits or 15
        self.wire.socket.may_follow_window = may_follow_window
        self.parser.inflater = inflater if deflate.client_no_context_takeover else Inflater(inflater.scratch, True)

    def _upgrade(self, bytes response, bytes early_data, tuple channels):
        """Answer the handshake with `response`, and take what the client had sent already behind its request.

        channels: the names of those that it is subscribed to before its on_connect is called.
        """
        cdef bytearray data
        self.wire.transport.set_protocol(self)  # what this raises, the Handshake handles: it is the protocol still
        try:
            self.wire.transport.write(response)
            self.received_ns = coarse_ns()
            self.context.on_connected(self, channels)
            if early_data:
                data = bytearray(early_data)
                self._receive(<uint8_t*>PyByteArray_AS_STRING(data), len(data))
        except BaseException as error:
            self._fail(error)

    # The application's side.

    @property
    def remote_address(self):
        """The peer's address, as `socket.getpeername()` gives it; or whom a trusted proxy says it is from."""
        if self.forwarded_address is not None:
            return self.forwarded_address
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
    def is_writing_paused(self):
        """Whether the kernel refused what was last written: the client does not keep up at the moment."""
        return self.wire.is_writing_paused

    def may_subscribe(self, str channel):
        """Return whether the authorize hook lets this client subscribe to `channel`."""
        return self.rights is None or self.rights.may_subscribe(channel)

    def may_publish(self, str channel):
        """Return whether the authorize hook lets this client publish to `channel`."""
        return self.rights is None or self.rights.may_publish(channel)

    def send(self, message, *, text=None):
        """Send `message` to this client alone; str as text, bytes-like as binary (or text with `text=True`).

        What its channels still have for it goes out first, unless it is behind, or a channel's limit of the rate
        holds it back: then a direct message may overtake that backlog. Returns False, and sends nothing, if the
        client is on its way out. A client that lets more than `max_direct_bytes` wait is closed with 1013.

        Raises TypeError, ValueError, MessageTooBig as `publish` does, and WrongThread.
        """
        cdef bytes frame
        self.context.sweeper.check_thread("client.send")
        frame = encode(message, text, self.context.max_message_bytes)
        if not self.is_open:
            return False
        self.catch_up_all(BEFORE_DIRECT)
        return self.wire.write_frame(frame)

    def close(self, code=1000, str reason=""):
        """Close the connection: CLOSE with `code` and `reason`, then the peer has `close_seconds` to answer.

        What was published to its channels before goes out first, unless the client is behind; no limit of the rate
        holds it back. Does nothing if it is closing already. Raises ValueError for a code that may not be sent
        (RFC 6455 section 7.4) or a reason above 123 bytes.
        """
        self.context.sweeper.check_thread("client.close")
        self._begin_close(code, reason, "application")

    def abort(self):
        """Close the connection at once, without a CLOSE frame."""
        self.context.sweeper.check_thread("client.abort")
        self._abort("", "server", "aborted")

    def _pause_reading(self):
        """Stop reading from the socket, so that TCP holds the peer back."""
        if not self.is_reading_paused and self.wire.transport is not None and not self.wire.transport.is_closing():
            self.is_reading_paused = True
            self.wire.transport.pause_reading()

    def _resume_reading(self):
        """Go on with what was read already, then go on reading: in a turn of its own, whoever asks for it."""
        if self.is_reading_paused:
            self.is_reading_paused = False
            self.context.loop.call_soon(self._read_on)

    # What the hub, the wire and the sweep ask for.

    def _close_because(self, int code, str reason, str cause):
        """Close for a reason of the server's own (counted under `cause`)."""
        self._begin_close(code, reason, cause)

    def _close_when_caught_up(self, int code, str reason, str cause):
        """The same, unless the socket is full: it has not got yet what comes before the CLOSE. Returns whether."""
        self.catch_up_all(BEFORE_CLOSE)
        if self.wire.socket.state != WRITABLE:
            return False
        self._begin_close(code, reason, cause)
        return True

    def _evict(self, str cause):
        """The client does not keep up (counted under `cause`)."""
        self.leave_all(True)
        self._begin_close(TRY_AGAIN_LATER, "slow consumer", cause)

    def _evict_now(self, str cause):
        """The same without waiting for the Transport, which holds memory that is needed."""
        self._end_as(ABNORMAL_CLOSURE, "slow consumer", "server", cause)
        self.leave_all(True)
        self.wire.abort_connection()

    def _direct_overflow(self):
        """More than `max_direct_bytes` of direct messages wait for the client."""
        self._evict("direct_overflow")

    def _stalled_seconds(self, double now):
        """For how long the kernel has taken nothing of what waits for this client, as seen by this method.

        `now`: seconds by the caller's clock.
        """
        return self.wire.stalled_ns(<uint64_t>(now * 1e9)) / 1e9

    def _keep_alive(self, double ping_seconds, double pong_seconds, double now):
        """Ping the client if it was silent for `ping_seconds`, close it if that brought nothing for `pong_seconds`.

        `now`: seconds by the caller's clock. Returns in how many seconds to look again.
        """
        cdef double silent_seconds = (coarse_ns() - self.received_ns) / 1e9
        cdef double pinged_seconds
        if silent_seconds < ping_seconds:
            self.pinged_ns = 0
            return ping_seconds - silent_seconds
        if self.wire.socket.state != WRITABLE:  # other clocks run for who does not read, and for who is closing
            self.pinged_ns = 0
            return ping_seconds
        if self.is_reading_paused:  # whom we do not read cannot be heard; but a ping that is refused tells of a reset
            self.pinged_ns = 0
            self.context.pings += self.wire.write_frame(_PING)
            return ping_seconds
        if self.pinged_ns <= self.received_ns:
            self.pinged_ns = coarse_ns()
            self.pinged_at = now
            self.context.pings += self.wire.write_frame(_PING)
            return min(ping_seconds, pong_seconds)  # it may answer at once, and be silent again
        pinged_seconds = now - self.pinged_at
        if pinged_seconds >= pong_seconds:
            self._begin_close(INTERNAL_ERROR, "keepalive ping timeout", "keepalive")
        return min(ping_seconds, max(0.0, pong_seconds - pinged_seconds))

    @property
    def _viewed(self):
        """The Segment that the Transport was given a view of and that is still in memory, or None."""
        return None if self.wire.viewed is None else self.wire.viewed()

    def _send_failed(self, int error):
        """send(2) failed with errno `error`: the connection is gone, whatever the Transport thinks."""
        self._abort(strerror(error), "network", "send_failed")

    def _end_as(self, int code, str reason, str by, str cause):
        if self.disconnected is None:
            self.disconnected = Disconnect(code, reason, by, cause)

    def _close_overdue(self):
        self.wire.abort_connection()

    cdef int _abort(self, str reason, str by, str cause) except -1:
        self._end_as(ABNORMAL_CLOSURE, reason, by, cause)
        self.leave_all(False)
        self.wire.abort_connection()
        return 0

    cdef int _begin_close(self, object code, str reason, str cause) except -1:
        cdef bytes frame
        frame = encode_close(code, reason)      # first: a wrong code is refused even if the client is gone
        if self.wire.is_close_sent or self.wire.transport is None:
            return 0
        self.catch_up_all(BEFORE_CLOSE)    # what was published before goes out before
        if self.wire.is_close_sent:
            return 0            # it turned out to be too far behind
        self.leave_all(False)
        self._end_as(code, reason, "server", cause)
        self._set_close_deadline()              # first: a Transport may raise
        self.wire.write_close(frame)
        self._resume_reading()                  # the peer's CLOSE is still to come
        return 0

    def _set_close_deadline(self):
        if self not in self.context.closing.waiting:
            self.context.closing.add(self)

    # The Transport's side.

    def get_buffer(self, size_hint):
        """Lend the Transport the hub's buffer: a megabyte of tiny frames would keep everybody else waiting."""
        return self.read_buffer.large if self.may_read_much else self.read_buffer.small

    def buffer_updated(self, Py_ssize_t size):
        """Handle what was read; if there may be more, the others come first."""
        cdef bint may_be_more = size == len(self.get_buffer(0))
        cdef int events = 0
        self.received_ns = coarse_ns()
        try:
            events = self._receive(self.read_buffer.data, size)
        except BaseException as error:
            self._fail(error)
        self.may_read_much = events <= MANY_EVENTS and not self.is_expansive and not self.is_reading_paused
        # uvloop would read again at once, as long as the buffer is filled.
        if may_be_more and self.wire.transport is not None and not self.wire.transport.is_closing():
            self.wire.transport.pause_reading()
            self.context.loop.call_soon(self._read_on)

    def _read_on(self):
        cdef bytearray rest
        if self.is_reading_paused or self.wire.transport is None or self.wire.transport.is_closing():
            return
        rest = self.parser.take_rest()
        if rest is None:
            self.wire.transport.resume_reading()
            return
        try:
            self._receive(<uint8_t*>PyByteArray_AS_STRING(rest), len(rest))
        except BaseException as error:
            self._fail(error)
        self.context.loop.call_soon(self._read_on)  # unless that was too much again

    def data_received(self, data):
        """Never called. A uvloop Transport that does not find it keeps that of the Handshake, and so the Handshake."""

    @guarded
    def eof_received(self):
        """The peer sent FIN: let the Transport close itself once its buffer is empty, which may be never.

        Without a CLOSE before it, that is a lost connection.
        """
        self.leave_all(False)
        self._end_as(ABNORMAL_CLOSURE, "", "network", "connection_lost")
        self._set_close_deadline()
        return False

    def connection_lost(self, exc):
        """The fd is closed right after this: no slot may name it any more."""
        self.leave_all(False)
        self._end_as(ABNORMAL_CLOSURE, "", "network", "connection_lost")
        self._last_address = self.remote_address
        self.wire.detach()
        self.parser = None
        self._count_partial(0)
        self.context.closing.discard(self)
        self.context.on_disconnected(self)

    def pause_writing(self):
        """The kernel has refused something, which the Transport now holds."""
        self.wire.pause()
        if self.wire.socket.state == PAUSED:
            self.context.paused.add(self)

    @guarded
    def resume_writing(self):
        """The kernel has taken what the Transport held."""
        self.wire.resume()
        self.resume_all()

    cdef int _receive(self, uint8_t* data, Py_ssize_t size) except -1:
        """Handle all events of what was read; returns how many there were."""
        cdef Parser parser = self.parser
        cdef Event event
        cdef int events = 0
        cdef list pongs = None      # to pings one behind the other: written together, since each write is a send(2)
        parser.feed(data, size)
        while True:
            event = parser.next_event()
            if pongs is not None and event != PING:
                self.wire.write_pongs(pongs)
                pongs = None
            if event == NOTHING or self.wire.transport is None:
                self._count_partial(parser.partial_bytes())
                if parser.inflated_bytes > MANY_INFLATED_BYTES:
                    self.is_expansive = True
                return events
            events += 1
            if event == CLOSE:
                self._receive_close()
            elif self.disconnected is not None:
                pass    # section 1.4: of no interest behind a CLOSE
            elif event == MESSAGE:
                self.context.on_message(self, parser.message)
                if self.is_reading_paused:
                    parser.keep_rest()
            elif event == PING:
                if pongs is None:
                    pongs = []
                pongs.append(make_frame(OPCODE_PONG, parser.control, parser.control_len))
            elif event == FAILED:
                self._fail_connection()

    cdef int _count_partial(self, Py_ssize_t size) except -1:
        if size != self.partial_bytes:
            self.partial_bytes = size
            self.context.partials.update(self, size)
        return 0

    def _drop_partial(self):
        """All clients together keep too much of unfinished messages, and this one has been at it for the longest."""
        self.partial_bytes = 0
        self.parser.fail(TRY_AGAIN_LATER, "too many unfinished messages", "partial_full")
        self._fail_connection()

    cdef int _fail_connection(self) except -1:
        """The peer broke the protocol (section 7.1.7); what it still sends is dropped by the Parser."""
        code, reason, cause = self.parser.failure
        self._begin_close(code, reason, cause)
        if self.wire.transport is not None:
            finish_writing(self.wire.transport)
        return 0

    cdef int _receive_close(self) except -1:
        """Answer the peer's CLOSE with the same code (section 5.5.1), or end what we began."""
        cdef int code = self.parser.close_code
        if not self.wire.is_close_sent:
            self.leave_all(False)
            self._end_as(code, self.parser.close_reason, "client", "client")
            self._set_close_deadline()
            self.wire.write_close(
                make_frame(OPCODE_CLOSE, NULL, 0) if code == NO_STATUS_RECEIVED else encode_close(code)
            )
        self.wire.end()
        return 0

    def _fail(self, error):
        """An error of our own (handlers' exceptions do not get here) ends this client and no other."""
        log_event(logging.ERROR, "internal_error", exception=error)
        self._begin_close(INTERNAL_ERROR, "internal error", "internal_error")
        end_program(error)
