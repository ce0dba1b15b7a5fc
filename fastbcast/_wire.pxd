from libc.stdint cimport uint32_t, uint64_t


cdef enum SocketState:
    WRITABLE = 0        # the sweep may send
    PAUSED = 1          # the kernel refused; the Transport holds what it did not take (`writing_paused`)
    CLOSED = 2          # a CLOSE was written, or the connection is gone: nothing may follow


cdef struct Socket:
    # What a sweep reads without the GIL. Written by the loop's thread only, and never during a slice.
    int fd              # -1: only the Transport may write (TLS), or the connection is gone
    int state
    # permessage-deflate: what the client's inflater can do, and what it is given; kept by _forms.pyx.
    int window_bits             # 0: it was not negotiated
    bint may_follow_window      # it keeps its context between messages, and the server has windows
    uint32_t sharable           # its channels that have a window which it could follow
    uint32_t windowed           # those of its slots that are on such a window: at most one,
    uint32_t deflated           # and then none of those that get each message compressed alone


cdef class Wire:
    cdef Socket socket
    # Set once, None after `detach`.
    cdef object transport               # asyncio.Transport
    cdef object owner                   # the Client: told when too much waits
    cdef int fd                         # the connection's, under TLS too; -1 after `detach`
    cdef bint is_encrypted              # the Transport speaks TLS, and keeps nothing of what it is given
    cdef readonly bint is_close_sent    # nothing but the end may follow
    cdef bytes pending_pong             # at most one, the latest (RFC 6455 section 5.5.3)
    # Weak reference to the Segment that the Transport was given a view of, until `resume`; None: it was not.
    cdef object viewed
    # Direct frames written while PAUSED: at least those that still wait, at most `max_direct_bytes`.
    cdef Py_ssize_t direct_bytes
    cdef Py_ssize_t max_direct_bytes
    # Does the kernel take anything? What the Transport was given so far; what of it had been taken, and since when by
    # the clock of who asks (0: nobody has asked since it was paused).
    cdef uint64_t handed_bytes, taken_bytes, stalled_since_ns

    cdef bint hand_over(self, object rest) except -1
    cdef uint64_t stalled_ns(self, uint64_t now) except? 0
    cdef Py_ssize_t waiting_bytes(self) except -1
    cdef bint has_room(self) noexcept
    cdef int _write(self, object data, Py_ssize_t size) except -1
    cdef uint64_t _count_taken(self) except? 0
    cdef bint write_frame(self, bytes frame) except -1
    cdef int write_pongs(self, list pongs) except -1
    cdef int write_close(self, bytes frame) except -1
    cdef int pause(self) except -1
    cdef int resume(self) except -1
    cdef int end(self) except -1
    cdef int abort_connection(self) except -1
    cdef int detach(self) except -1


cdef int shut_down(int fd) noexcept
cdef int finish_writing(object transport) except -1
