from libc.stdint cimport uint8_t, uint64_t

from fastbcast.deflate._zlib cimport z_stream

cdef enum:
    RAW_WINDOW_BITS = -15           # of a stream (zlib.h, inflateInit2): whatever a peer has negotiated, it inflates it
    SCRATCH_BYTES = 65536           # what a Scratch keeps between messages


cdef enum Outcome:
    INFLATED = 0                    # all of it is in the room
    TOO_BIG = 1                     # it has more than `max_bytes`
    INVALID = 2                     # it is no deflate stream, or not all of one
    NO_MEMORY = 3


cdef struct Room:
    # Where messages are inflated to, one after the other.
    uint8_t* data
    Py_ssize_t capacity             # bytes


cdef struct Inflated:
    # One message, or what there is of it if the outcome is another one.
    Py_ssize_t all_bytes
    Py_ssize_t remembered_bytes     # of them, those behind the last end of a deflate stream
    bint is_end                     # a stream has ended in it (section 7.2.3.4): what was before is forgotten


cdef class Scratch:
    cdef Room room
    cdef readonly uint64_t messages         # that were inflated in it

    cdef int shrink(self) noexcept


cdef class Inflater:
    # Set once.
    cdef readonly Scratch scratch
    cdef readonly bint keeps_window
    # zlib's state and its window: about 40 KiB, from the first message on.
    cdef z_stream stream
    cdef readonly bint has_stream
    cdef Inflated inflated              # the message in the scratch

    cdef Outcome inflate_message(self, const uint8_t* data, Py_ssize_t len, Py_ssize_t max_bytes) noexcept
    cdef bint _begin(self) noexcept


cdef Outcome inflate_payload(
    z_stream* stream, const uint8_t* payload, Py_ssize_t len, Py_ssize_t max_bytes, Room* room, Inflated* inflated
) noexcept nogil
