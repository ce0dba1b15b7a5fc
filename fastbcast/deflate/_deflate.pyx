"""permessage-deflate, the sending half: a message to one compressed frame (RFC 7692 section 7.2.1), with zlib.

    payload --deflate, flushed to a byte (Z_SYNC_FLUSH)--> ... 00 00 ff ff     the last four bytes are not sent

Invariants

1. A Deflater that is reset before a message refers to nothing before it: what it makes can be inflated by anybody,
   with any window that is not smaller than its own. One that is not refers to what it was given since its reset.
2. A frame made here has RSV1=1, is whole, and fits into `bound` bytes.
3. The streams that compress alone belong to the hub, since they keep nothing between two messages; a window belongs
   to its channel, and all windows together take at most `max_window_bytes`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memmove, memset

from fastbcast._clock cimport now_ns
from fastbcast._frames cimport RSV1, Payload, acquire_payload, frame_len, header_len, release_payload, write_header
from fastbcast.deflate._zlib cimport (
    Z_DEFAULT_STRATEGY,
    Z_DEFLATED,
    Z_OK,
    Z_SYNC_FLUSH,
    deflate,
    deflateBound,
    deflateEnd,
    deflateInit2,
    deflateReset,
    z_stream,
)

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    FLUSH_BYTES = 16        # what Z_SYNC_FLUSH may add to deflateBound: an empty stored block, and bits before it
    TAIL_BYTES = 4          # of that block, and not sent (section 7.2.1)
    MAX_MEM_LEVEL = 8       # zlib's default: its largest is hardly better, and twice the memory
    MAX_COMPRESSED_BYTES = 1 << 30
    # Up to this size a stream with small tables compresses a message alone: they are cleared before each.
    SHORT_BYTES = 4096
    SHORT_WINDOW_BITS = 12
    LONG_WINDOW_BITS = 15
    SMALL_WINDOW_BITS = 9           # the least that zlib has, and so right for all


cdef class Deflater:
    """One stream of zlib's."""

    def __cinit__(self, int level, int window_bits):
        if not (1 <= level <= 9 and 9 <= window_bits <= 15):
            raise ValueError(f"zlib has no level {level} with a window of {window_bits} bits")
        memset(&self.stream, 0, sizeof(z_stream))
        if deflateInit2(
            &self.stream, level, Z_DEFLATED, -window_bits, mem_level(window_bits), Z_DEFAULT_STRATEGY
        ) != Z_OK:
            raise MemoryError("no memory for a compressor")
        self.memory_bytes = memory_bytes(window_bits)

    def __dealloc__(self):
        deflateEnd(&self.stream)    # nothing happens if it was not made

    cdef int reset(self) noexcept:
        """Refer to nothing that came before."""
        deflateReset(&self.stream)
        return 0

    cdef Py_ssize_t bound(self, Py_ssize_t payload_bytes) noexcept:
        """Return how many bytes a frame with so many of payload may take, compressed or not."""
        return frame_len(<uint64_t>deflateBound(&self.stream, <unsigned long>payload_bytes)) + FLUSH_BYTES

    cdef Py_ssize_t write_frame(self, uint8_t* out, Payload* payload) noexcept:
        """Write a compressed frame at `out`, where there are `bound` bytes; returns its size.

        The payload must not be empty: zlib has nothing to flush then.
        """
        cdef Py_ssize_t room = self.bound(payload.len)
        cdef Py_ssize_t reserved = header_len(<uint64_t>room)
        cdef Py_ssize_t compressed_bytes
        cdef Py_ssize_t header_bytes
        self.stream.next_in = payload.data
        self.stream.avail_in = <unsigned int>payload.len
        self.stream.next_out = out + reserved
        self.stream.avail_out = <unsigned int>(room - reserved)
        deflate(&self.stream, Z_SYNC_FLUSH)
        compressed_bytes = self.stream.next_out - (out + reserved) - TAIL_BYTES
        header_bytes = write_header(out, payload.opcode | RSV1, <uint64_t>compressed_bytes)
        if header_bytes != reserved:
            memmove(out + header_bytes, out + reserved, compressed_bytes)
        return header_bytes + compressed_bytes

    # The same from Python, for tests and benchmarks.

    def encode(self, message, *, bint is_alone=True):
        """Return `message`, which must not be empty, as a compressed frame."""
        cdef Payload payload
        cdef bytearray out
        cdef Py_ssize_t size
        if is_alone:
            self.reset()
        acquire_payload(message, None, &payload)
        try:
            if payload.len == 0:
                raise ValueError("an empty message cannot be compressed")
            out = bytearray(self.bound(payload.len))
            size = self.write_frame(out, &payload)
            return bytes(out[:size])
        finally:
            release_payload(&payload)


cdef int mem_level(int window_bits) noexcept:
    # As much for the tables as for the window: a reset clears them, for messages alone before each.
    return min(window_bits - 7, MAX_MEM_LEVEL)


cdef Py_ssize_t memory_bytes(int window_bits) noexcept:
    # zconf.h: "the memory requirements for deflate are (in bytes)", and some for its state.
    return (1 << (window_bits + 2)) + (1 << (mem_level(window_bits) + 9)) + 6144


cdef bint can_compress(Py_ssize_t payload_bytes, Py_ssize_t min_bytes) noexcept nogil:
    """Whether a message of this size is compressed: zlib has nothing to flush for an empty one, and counts in 32 bits."""
    return max(<Py_ssize_t>1, min_bytes) <= payload_bytes <= MAX_COMPRESSED_BYTES


cdef class Deflaters:
    """What the channels of a hub compress with, and what they may take for it."""

    def __cinit__(self, Py_ssize_t max_window_bytes=PY_SSIZE_T_MAX):
        self.alone = {}
        self.max_window_bytes = max_window_bytes

    cdef Deflater get_alone(self, int level, Py_ssize_t payload_bytes, bint is_small):
        """Return the hub's stream for a message alone that can be compressed.

        `is_small`: for those whose windows are small, however small they are.
        """
        cdef int window_bits = SMALL_WINDOW_BITS
        cdef Deflater deflater
        if not is_small:
            window_bits = SHORT_WINDOW_BITS if payload_bytes <= SHORT_BYTES else LONG_WINDOW_BITS
        deflater = self.alone.get((level, window_bits))
        if deflater is None:
            deflater = Deflater(level, window_bits)
            self.alone[level, window_bits] = deflater
        return deflater

    cdef Py_ssize_t write_frame(self, Deflater deflater, uint8_t* out, Payload* payload, bint is_alone) noexcept:
        """Have `deflater` write a frame, as it does by itself; it refers to nothing before if it `is_alone`.

        Returns the frame's size, also of one alone that turns out not to be shorter, and is of no use.
        """
        cdef uint64_t began_ns = now_ns()
        cdef Py_ssize_t size
        if is_alone:
            deflater.reset()
        size = deflater.write_frame(out, payload)
        self.busy_ns += now_ns() - began_ns
        self.messages += 1
        self.payload_bytes += <uint64_t>payload.len
        self.compressed_bytes += <uint64_t>size
        return size

    cdef bytes make_frame(self, int level, Payload* payload):
        """Return a frame with the payload compressed alone; None if that is not shorter."""
        cdef Deflater deflater = self.get_alone(level, payload.len, False)
        cdef Py_ssize_t size
        cdef bytes out
        out = PyBytes_FromStringAndSize(NULL, deflater.bound(payload.len))
        size = self.write_frame(deflater, <uint8_t*>PyBytes_AS_STRING(out), payload, True)
        return out[:size] if size < frame_len(payload.len) else None

    cdef Deflater open_window(self, int level, int window_bits):
        """Return a new stream for a channel's window; None if all windows together would take too much."""
        cdef Deflater window
        if self.window_bytes + memory_bytes(window_bits) > self.max_window_bytes:
            self.refused_windows += 1
            return None
        window = Deflater(level, window_bits)
        self.window_bytes += window.memory_bytes
        self.windows += 1
        return window

    cdef int close_window(self, Deflater window) noexcept:
        self.window_bytes -= window.memory_bytes
        self.windows -= 1
        return 0

    def as_dict(self):
        """Return all numbers by name."""
        return {
            "messages": self.messages,
            "payload_bytes": self.payload_bytes,
            "compressed_bytes": self.compressed_bytes,
            "seconds": self.busy_ns / 1e9,
            "window_resets": self.resets,
            "windows": self.windows,
            "window_bytes": self.window_bytes,
            "windows_refused": self.refused_windows,
        }
