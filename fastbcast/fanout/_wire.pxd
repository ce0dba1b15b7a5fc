from libc.stdint cimport uint64_t

from fastbcast.fanout._slot cimport Socket


cdef class Wire:
    cdef Socket socket
    # Set once, None after `detach`.
    cdef object transport               # asyncio.Transport
    cdef object owner                   # the Client: told when too much waits
    cdef int fd                         # the connection's, under TLS too; -1 after `detach`
    cdef bint is_transport_only         # there is no descriptor; the Transport keeps no view of what it is given
    cdef readonly bint is_close_sent    # nothing but the end may follow
    cdef bytes pending_pong             # at most one, the latest (RFC 6455 section 5.5.3)
    # Weak reference to the Segment that the Transport was given a view of, until `resume`; None: it was not.
    cdef object viewed
    # Direct frames written while PAUSED: at least those that still wait, at most `max_direct_bytes`.
    cdef Py_ssize_t direct_bytes
    cdef Py_ssize_t max_direct_bytes
    # Does the kernel take anything? What the Transport was given so far; what of it had been taken, and since when, by
    # the clock of the caller of `stalled_ns` (0: that was not called since the socket was paused).
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
