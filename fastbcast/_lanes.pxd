from libc.stdint cimport uint8_t, uint64_t

from fastbcast._deflate cimport Deflater, Deflaters
from fastbcast._frames cimport Payload
from fastbcast._log cimport Log
from fastbcast._policy cimport Policy


cdef class Lanes:
    # Set once.
    cdef Log plain, deflated, deflated_small, windowed
    cdef Policy policy
    cdef Deflaters deflaters
    # The window; None: nobody uses it.
    cdef Deflater window
    cdef uint64_t messages_since_reset

    cdef uint64_t append(self, Payload* payload, bint is_plain_kept) except 0
    cdef uint64_t skip(self) noexcept
    cdef bint begin_window(self) except -1
    cdef int begin_trim(self) noexcept
    cdef int trim(self) except -1
    cdef Py_ssize_t allocated_bytes(self) noexcept
    cdef int _put(self, Log log, uint8_t* out, Payload* payload, Deflater deflater) noexcept
    cdef tuple _logs(self)
    cdef int _close_window(self) noexcept
