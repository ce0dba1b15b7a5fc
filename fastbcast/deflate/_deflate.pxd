from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastbcast._frames cimport Payload
from fastbcast.deflate._zlib cimport z_stream


cdef struct Compression:
    # How a channel's messages are compressed; held by its Policy.
    int level                   # zlib's, 1 to 9
    int window_bits             # of the channel's window
    Py_ssize_t min_bytes        # a smaller payload is sent as it is
    uint64_t reset_messages     # the window begins again after at least so many messages


cdef class Deflater:
    cdef z_stream stream
    cdef readonly Py_ssize_t memory_bytes

    cdef int reset(self) noexcept
    cdef Py_ssize_t bound(self, Py_ssize_t payload_bytes) noexcept
    cdef Py_ssize_t write_frame(self, uint8_t* out, Payload* payload) noexcept


cdef class Deflaters:
    cdef dict alone                 # (level, window bits) -> Deflater
    cdef Py_ssize_t max_window_bytes
    cdef readonly Py_ssize_t window_bytes
    cdef readonly uint32_t windows
    # What compression has done since the hub was made.
    cdef readonly uint64_t messages, payload_bytes, compressed_bytes, resets, refused_windows, busy_ns

    cdef Deflater get_alone(self, int level, Py_ssize_t payload_bytes, bint is_small)
    cdef Py_ssize_t write_frame(self, Deflater deflater, uint8_t* out, Payload* payload, bint is_alone) noexcept
    cdef bytes make_frame(self, int level, Payload* payload)
    cdef Deflater open_window(self, int level, int window_bits)
    cdef int close_window(self, Deflater window) noexcept


cdef bint can_compress(Py_ssize_t payload_bytes, Py_ssize_t min_bytes) noexcept nogil
