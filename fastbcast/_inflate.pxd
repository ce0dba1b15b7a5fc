from libc.stdint cimport uint8_t, uint64_t

from fastbcast._zlib cimport z_stream

cdef enum:
    SCRATCH_BYTES = 65536           # what a Scratch keeps between messages


cdef enum Outcome:
    INFLATED = 0                    # `len` bytes in the scratch
    TOO_BIG = 1                     # it has more than `max_bytes`
    INVALID = 2                     # it is no deflate stream, or not all of one
    NO_MEMORY = 3


cdef class Scratch:
    cdef uint8_t* data
    cdef readonly Py_ssize_t capacity       # bytes
    cdef readonly uint64_t messages         # that were inflated in it

    cdef bint grow(self, Py_ssize_t max_bytes) noexcept
    cdef int shrink(self) noexcept


cdef class Inflater:
    # Set once.
    cdef readonly Scratch scratch
    cdef readonly bint keeps_window
    # zlib's state and its window: about 40 KiB, from the first message on.
    cdef z_stream stream
    cdef readonly bint has_stream
    cdef bint is_between_blocks         # nothing is left over of what was fed last: the stream may end here
    cdef bint has_ended                 # the same, with a block that said it is the last
    cdef Py_ssize_t len                 # of the message, in the scratch

    cdef Outcome inflate_message(self, const uint8_t* data, Py_ssize_t len, Py_ssize_t max_bytes) noexcept
    cdef Outcome _begin(self) noexcept
    cdef Outcome _feed(self, const uint8_t* data, Py_ssize_t len, Py_ssize_t max_bytes) noexcept
