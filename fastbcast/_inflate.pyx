"""What clients send compressed (permessage-deflate, RFC 7692): a message's payload, inflated with a bound.

    payload, then 00 00 ff ff --inflate--> Scratch (one for a hub) --> the message

Invariants

1. Never more than `max_bytes` + 1 are inflated: a message that would be larger is found with the byte that is too
   many, and the scratch grows with what has been inflated, not with what was announced.
2. A message ends where a block ends and at a whole byte: anything else is INVALID. After a block that says it is the
   last (section 7.2.3.4) the stream begins anew, as often as there are such blocks, each at a small constant cost.
3. An Inflater with `keeps_window` belongs to one client and sees every compressed message of it, in order. One
   without begins each message anew, so one serves all clients that compress each message alone.
4. A message is in the scratch until the next one of any client of the hub, or until `shrink`, which every caller owes
   it.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from fastbcast._zlib cimport (
    Z_BUF_ERROR,
    Z_MEM_ERROR,
    Z_OK,
    Z_STREAM_END,
    Z_SYNC_FLUSH,
    inflate,
    inflateEnd,
    inflateInit2,
    inflateReset,
)

cdef enum:
    RAW_WINDOW_BITS = -15               # whatever a peer has negotiated, 15 bits inflate it
    MAX_FED_BYTES = 1 << 30             # zlib counts in 32 bits
    BETWEEN_BLOCKS = 128                # `data_type` (zlib.h, inflate), with no bits left over and not in a last block

cdef uint8_t[4] TAIL = [0x00, 0x00, 0xFF, 0xFF]     # what senders leave out (section 7.2.1)


cdef class Scratch:
    """Where the messages of a hub's clients are inflated, one after the other."""

    def __dealloc__(self):
        free(self.data)

    cdef bint grow(self, Py_ssize_t max_bytes) noexcept:
        """Make it twice as large, up to `max_bytes`; False: no memory, and nothing has changed."""
        cdef Py_ssize_t capacity = min(2 * self.capacity if self.capacity else SCRATCH_BYTES, max_bytes)
        cdef uint8_t* data = <uint8_t*>realloc(self.data, capacity)
        if data == NULL:
            return False
        self.data = data
        self.capacity = capacity
        return True

    cdef int shrink(self) noexcept:
        """The message is not needed any more: give back what a large one took."""
        cdef uint8_t* data
        if self.capacity > SCRATCH_BYTES:
            data = <uint8_t*>realloc(self.data, SCRATCH_BYTES)
            if data != NULL:
                self.data = data
                self.capacity = SCRATCH_BYTES
        return 0


cdef class Inflater:
    """zlib's inflate for the messages of one client, or of all that compress each message alone."""

    def __cinit__(self, Scratch scratch not None, bint keeps_window):
        self.scratch = scratch
        self.keeps_window = keeps_window

    def __dealloc__(self):
        if self.has_stream:
            inflateEnd(&self.stream)

    cdef Outcome inflate_message(self, const uint8_t* data, Py_ssize_t len, Py_ssize_t max_bytes) noexcept:
        """Inflate the payload of a whole message (section 7.2.2); after any other outcome than INFLATED it is useless
        if it keeps its window."""
        cdef Outcome outcome = INFLATED
        cdef Py_ssize_t payload_bytes
        self.scratch.messages += 1
        self.len = 0
        if len:     # an empty message that a careless peer did not compress at all
            outcome = self._begin()
            if outcome == INFLATED:
                outcome = self._feed(data, len, max_bytes)
            if outcome == INFLATED and not self.has_ended:
                payload_bytes = self.len
                outcome = self._feed(TAIL, sizeof(TAIL), max_bytes)
                if outcome == INFLATED and (self.len != payload_bytes or not self.is_between_blocks):
                    outcome = INVALID           # they were no empty block: something was cut off before
        return outcome

    cdef Outcome _begin(self) noexcept:
        """Make the stream, or make it new where nothing may be taken over."""
        cdef int status = Z_OK
        if not self.has_stream:
            memset(&self.stream, 0, sizeof(self.stream))
            status = inflateInit2(&self.stream, RAW_WINDOW_BITS)
            self.has_stream = status == Z_OK
        elif not self.keeps_window:
            inflateReset(&self.stream)
        return INFLATED if status == Z_OK else NO_MEMORY

    cdef Outcome _feed(self, const uint8_t* data, Py_ssize_t len, Py_ssize_t max_bytes) noexcept:
        """Inflate all that `len` bytes give."""
        cdef Scratch scratch = self.scratch
        cdef int status
        while True:
            if self.len == scratch.capacity and not scratch.grow(max_bytes + 1):
                return NO_MEMORY
            self.stream.next_in = data
            self.stream.avail_in = <unsigned int>min(len, MAX_FED_BYTES)
            self.stream.next_out = scratch.data + self.len
            self.stream.avail_out = <unsigned int>min(min(scratch.capacity, max_bytes + 1) - self.len, MAX_FED_BYTES)
            status = inflate(&self.stream, Z_SYNC_FLUSH)
            len -= self.stream.next_in - data
            data = self.stream.next_in
            self.len = self.stream.next_out - scratch.data
            if status == Z_STREAM_END:
                inflateReset(&self.stream)
            elif status != Z_OK and status != Z_BUF_ERROR:      # that one only says that there was nothing to do
                return NO_MEMORY if status == Z_MEM_ERROR else INVALID
            if self.len > max_bytes:
                return TOO_BIG
            if len == 0 and (status == Z_STREAM_END or self.stream.avail_out):
                self.has_ended = status == Z_STREAM_END
                self.is_between_blocks = self.has_ended or self.stream.data_type == BETWEEN_BLOCKS
                return INFLATED
