"""The one ordered writer of a client: everything after the 101 response leaves through here.

    sweep ---- send(fd) ---------------------------> kernel      state WRITABLE: the Transport is empty
      |                                                ^
      `-- what the kernel refused --> Transport -------'         state PAUSED: only the Transport writes
    direct frames, pongs, CLOSE ----^

No sweep can write to a connection that is `is_transport_only`, since its Socket has no descriptor: everything goes
through its Transport. That is so under TLS (tls.py), where the Transport encrypts what it is given at once, and its
buffer holds ciphertext.

Invariants

1. While the state is WRITABLE the Transport's buffer is empty, and the sweep may use the fd directly; while
   it is PAUSED the buffer is not. The Transport's high-water mark is 0, so that `pause_writing` and
   `resume_writing` tell exactly.
2. Whenever Python has control the byte stream is at a frame boundary, counting what the Transport holds.
3. Nothing follows a CLOSE: after `write_close` the state is CLOSED for good.
4. What waits in the Transport is bounded: the rest of one frame (without a descriptor one frame, or frames of at most
   TRANSPORT_BYTES of _delivery.pyx, as ciphertext), one CLOSE, at most `max_direct_bytes` of direct frames, and the
   pongs to what one read has brought.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from fastbcast.fanout._slot cimport CLOSED, PAUSED, WRITABLE
from fastbcast.log._log cimport COPIED_REST_BYTES

from weakref import ref

cdef extern from "<sys/socket.h>" nogil:
    int SHUT_RDWR
    int shutdown(int fd, int how)

cdef extern from "<poll.h>":
    struct pollfd:
        int fd
        short events
        short revents
    const short POLLOUT
    int poll(pollfd* fds, unsigned long count, int timeout_ms)


cdef class Wire:
    """Write frames to one connection, in order, through its fd or its Transport."""

    def __cinit__(self, object owner, object transport, int fd, Py_ssize_t max_direct_bytes):
        self.owner = owner
        self.transport = transport
        self.max_direct_bytes = max_direct_bytes
        self.fd = fd
        self.is_transport_only = transport.get_extra_info("ssl_object") is not None
        self.socket.fd = -1 if self.is_transport_only else fd
        self.socket.state = WRITABLE

    @property
    def is_writing_paused(self):
        """Whether the kernel refused bytes that the Transport now holds."""
        return self.socket.state == PAUSED

    cdef bint hand_over(self, object rest) except -1:
        """Give the Transport the rest of a frame, or without a descriptor whole frames, as a view of a Segment.

        Returns whether it had to keep any of it.

        Also right when the kernel took nothing of the frame: only a Transport that holds something
        waits for the socket to become writable.
        """
        cdef Py_ssize_t rest_bytes = len(rest)
        if not self.is_transport_only:
            if rest_bytes <= COPIED_REST_BYTES:
                rest = bytes(rest)
            else:
                self.viewed = ref(rest.obj)
        self._write(rest, rest_bytes)
        if self.socket.state == WRITABLE:
            self.viewed = None
        return self.socket.state == PAUSED

    cdef bint write_frame(self, bytes frame) except -1:
        """Write one whole frame (or some) now, behind what the Transport holds; returns False if it may not be."""
        if self.socket.state == CLOSED or self.transport.is_closing():
            return False
        if self.socket.state == PAUSED:
            # What waits is the rest of a frame, then direct frames: the buffer empties in that order.
            self.direct_bytes = min(self.direct_bytes, <Py_ssize_t>self.transport.get_write_buffer_size())
            if self.direct_bytes + PyBytes_GET_SIZE(frame) > self.max_direct_bytes:
                self.owner._direct_overflow()
                return False
            self.direct_bytes += PyBytes_GET_SIZE(frame)
        self._write(frame, PyBytes_GET_SIZE(frame))
        return True

    cdef int _write(self, object data, Py_ssize_t size) except -1:
        self.handed_bytes += <uint64_t>size
        self.transport.write(data)
        return 0

    cdef int write_pongs(self, list pongs) except -1:
        """Write some pongs, or keep the last of them (replacing an older one) until the Transport is empty."""
        if self.socket.state == WRITABLE:
            self.write_frame(b"".join(pongs))
        elif self.socket.state == PAUSED:
            self.pending_pong = pongs[-1]
        return 0

    cdef int write_close(self, bytes frame) except -1:
        """Write a CLOSE, the last frame of this stream."""
        if self.is_close_sent:
            return 0
        self.is_close_sent = True
        self.socket.state = CLOSED
        self.pending_pong = None
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(frame)
        return 0

    cdef int pause(self) except -1:
        if self.socket.state == WRITABLE:
            self.socket.state = PAUSED
            self.taken_bytes = self._count_taken()
            self.stalled_since_ns = 0
        return 0

    cdef uint64_t _count_taken(self) except? 0:
        return self.handed_bytes - <uint64_t>self.transport.get_write_buffer_size()

    cdef uint64_t stalled_ns(self, uint64_t now) except? 0:
        """Return for how long the kernel has taken nothing of what the Transport holds; 0 if it holds nothing.

        `now`: by a clock of the caller's, the same one each time. What was taken is found out by this call: the more
        often it is made, the more exact is what it returns.
        """
        cdef uint64_t taken_bytes
        if self.socket.state != PAUSED or self.transport.is_closing():
            return 0
        taken_bytes = self._count_taken()
        if taken_bytes != self.taken_bytes or self.stalled_since_ns == 0:
            self.taken_bytes = taken_bytes
            self.stalled_since_ns = now
        return now - self.stalled_since_ns

    cdef Py_ssize_t waiting_bytes(self) except -1:
        """Return how many bytes the Transport holds."""
        return 0 if self.socket.state != PAUSED else <Py_ssize_t>self.transport.get_write_buffer_size()

    cdef bint has_room(self) noexcept:
        """Whether the kernel would take something now; asked of the kernel, with a system call."""
        cdef pollfd asked = pollfd(self.fd, POLLOUT, 0)
        return poll(&asked, 1, 0) == 1 and asked.revents == POLLOUT

    cdef int resume(self) except -1:
        """The Transport is empty again: send what waited for that."""
        cdef bytes pong = self.pending_pong
        self.viewed = None
        self.direct_bytes = 0
        if self.socket.state == PAUSED:
            self.socket.state = WRITABLE
            if pong is not None:
                self.pending_pong = None
                self.write_frame(pong)
        return 0

    cdef int end(self) except -1:
        """Close the connection after what the Transport holds has gone out."""
        self.socket.state = CLOSED
        if self.transport is not None:
            self.transport.close()
        return 0

    cdef int abort_connection(self) except -1:
        """Close the connection now; what was not sent is lost."""
        self.socket.state = CLOSED
        if self.transport is not None:
            self.transport.abort()
        return 0

    cdef int detach(self) except -1:
        """The connection is gone, and its fd may soon be another's."""
        shut_down(self.fd)
        self.socket.state = CLOSED
        self.fd = self.socket.fd = -1
        self.viewed = None
        self.pending_pong = None
        self.transport = None
        self.owner = None
        return 0


cdef int shut_down(int fd) noexcept:
    """End the connection of the socket `fd`, which its Transport is about to close; an error is no news.

    A process forked meanwhile has the descriptor too, and the peer would not hear of the end before that ends
    (RFC 6455 section 7.1.1: the server closes the TCP connection first).
    """
    shutdown(fd, SHUT_RDWR)
    return 0


cdef int finish_writing(object transport) except -1:
    """Let nothing more out after what a Transport holds, but go on reading; the caller has set a deadline."""
    if transport.is_closing():
        return 0
    try:
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()   # TLS, before its handshake is done
    except OSError:     # asyncio's shutdown(2): what went out before has met a peer that is gone, and was reset
        transport.abort()
    return 0
