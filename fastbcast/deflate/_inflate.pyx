"""What clients send compressed (permessage-deflate, RFC 7692): a message's payload, inflated with a bound.

    payload, then 00 00 ff ff --inflate_payload--> Scratch (one for a hub) --> the message

The load generator inflates with `inflate_payload`, too, into a room of its own.

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

from fastbcast.deflate._zlib cimport (
    Z_BUF_ERROR,
    Z_MEM_ERROR,
    Z_OK,
    Z_STREAM_END,
    Z_SYNC_FLUSH,
    inflate,
    inflateEnd,
    inflateInit2,
    inflateReset,
    z_stream,
)

cdef enum:
    MAX_FED_BYTES = 1 << 30             # zlib counts in 32 bits
    BETWEEN_BLOCKS = 128                # `data_type` (zlib.h, inflate), with no bits left over and not in a last block

cdef uint8_t[4] TAIL = [0x00, 0x00, 0xFF, 0xFF]     # what senders leave out (section 7.2.1)


cdef class Scratch:
    """Where the messages of a hub's clients are inflated, one after the other."""

    def __dealloc__(self):
        free(self.room.data)

    @property
    def capacity(self):
        """How many bytes it holds in memory."""
        return self.room.capacity

    cdef int shrink(self) noexcept:
        """The message is not needed any more: give back what a large one took."""
        cdef uint8_t* data
        if self.room.capacity > SCRATCH_BYTES:
            data = <uint8_t*>realloc(self.room.data, SCRATCH_BYTES)
            if data != NULL:
                self.room = Room(data, SCRATCH_BYTES)
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
        """Inflate the payload of a whole message; after any other outcome than INFLATED it is useless if it keeps its
        window."""
        self.scratch.messages += 1
        self.inflated = Inflated(0, 0, False)
        if len == 0:    # an empty message that a careless peer did not compress at all
            return INFLATED
        if not self._begin():
            return NO_MEMORY
        return inflate_payload(&self.stream, data, len, max_bytes, &self.scratch.room, &self.inflated)

    cdef bint _begin(self) noexcept:
        """Make the stream, or make it new where nothing may be taken over. False: no memory."""
        if not self.has_stream:
            memset(&self.stream, 0, sizeof(self.stream))
            self.has_stream = inflateInit2(&self.stream, RAW_WINDOW_BITS) == Z_OK
        elif not self.keeps_window:
            inflateReset(&self.stream)
        return self.has_stream


cdef Outcome inflate_payload(
    z_stream* stream, const uint8_t* payload, Py_ssize_t len, Py_ssize_t max_bytes, Room* room, Inflated* inflated
) noexcept nogil:
    """Inflate the payload of a whole message into `room` (section 7.2.2); nothing after it can be inflated if that fails.

    `stream` has inflated what the sender's may refer to; where the outcome is INFLATED it has inflated this, too.
    """
    cdef int status
    cdef bint has_ended, is_tail = False
    cdef Py_ssize_t ended_at = 0, payload_bytes = 0
    inflated[0] = Inflated(0, 0, False)
    while True:
        if inflated.all_bytes == room.capacity and not enlarge(room, max_bytes + 1):
            return NO_MEMORY
        stream.next_in = payload
        stream.avail_in = <unsigned int>min(len, MAX_FED_BYTES)
        stream.next_out = room.data + inflated.all_bytes
        stream.avail_out = <unsigned int>min(min(room.capacity, max_bytes + 1) - inflated.all_bytes, MAX_FED_BYTES)
        status = inflate(stream, Z_SYNC_FLUSH)
        len -= stream.next_in - payload
        payload = stream.next_in
        inflated.all_bytes = stream.next_out - room.data
        has_ended = status == Z_STREAM_END
        if has_ended:
            inflateReset(stream)
            inflated.is_end = True
            ended_at = inflated.all_bytes
        elif status != Z_OK and status != Z_BUF_ERROR:      # that one only says that there was nothing to do
            return NO_MEMORY if status == Z_MEM_ERROR else INVALID
        if inflated.all_bytes > max_bytes:
            return TOO_BIG
        if len or not (has_ended or stream.avail_out):
            continue
        if is_tail and (
            inflated.all_bytes != payload_bytes or not (has_ended or stream.data_type == BETWEEN_BLOCKS)
        ):
            return INVALID              # it was no empty block: something was cut off before
        if is_tail or has_ended:        # behind an end a byte should follow, but nothing is missing
            break
        is_tail = True
        payload_bytes = inflated.all_bytes
        payload = TAIL
        len = sizeof(TAIL)
    inflated.remembered_bytes = inflated.all_bytes - ended_at
    return INFLATED


cdef bint enlarge(Room* room, Py_ssize_t max_bytes) noexcept nogil:
    """Make it twice as large, up to `max_bytes`; False: no memory, and nothing has changed."""
    cdef Py_ssize_t capacity = min(2 * room.capacity if room.capacity else SCRATCH_BYTES, max_bytes)
    cdef uint8_t* data = <uint8_t*>realloc(room.data, capacity)
    if data == NULL:
        return False
    room[0] = Room(data, capacity)
    return True
