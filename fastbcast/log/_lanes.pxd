from libc.stdint cimport uint8_t, uint64_t

from fastbcast._frames cimport Payload
from fastbcast.deflate._deflate cimport Compression, Deflater, Deflaters
from fastbcast.log._log cimport Form, Lane, Log


cdef class Lanes:
    # Set once.
    cdef tuple logs                 # a Log for each Form
    cdef Compression compression
    cdef Deflaters deflaters
    # The window; None: nobody uses it.
    cdef Deflater window
    cdef uint64_t messages_since_reset

    cdef Log log_of(self, Form form)
    cdef Lane* lane_of(self, Form form) noexcept
    cdef uint64_t append(self, Payload* payload, bint is_plain_kept) except 0
    cdef uint64_t skip(self) noexcept
    cdef bint begin_window(self) except -1
    cdef int begin_trim(self) noexcept
    cdef int trim(self) except -1
    cdef Py_ssize_t allocated_bytes(self) noexcept
    cdef Deflater _deflater_of(self, Form form, Py_ssize_t payload_bytes)
    cdef int _put(self, Log log, uint8_t* out, Payload* payload, Deflater deflater) noexcept
    cdef int _close_window(self) noexcept
