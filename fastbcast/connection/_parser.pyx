"""What a client sends: bytes, as they are read, to messages and control frames (RFC 6455 section 5).

    feed(bytes of one read) -> next_event() ... next_event() -> NOTHING: feed the next read

Invariants

1. One event at a time: nothing behind an event has been looked at when it is returned, so that what came before
   an error is delivered, and nothing behind a CLOSE or an error ever is.
2. An error is found with the first byte that makes it one: a header before its payload, a length before what
   it announces, UTF-8 with the byte that cannot be (section 8.1), not at the end of the message. Only what is inside
   of a compressed message is looked at when the message is whole.
3. A message is at most `max_message_bytes`, in at most `max_fragments` frames. What is kept of a message that is
   not here in one piece grows with what has come, not with what was announced.
4. Between two reads nothing but that message's beginning, and a control frame's, is kept; and, if the caller wants no
   more events for now, what is behind the last one. The bytes that are fed are the caller's; they are unmasked in place.
5. With an `inflater` a message may be compressed (RFC 7692 section 6): RSV1 of its first frame says so, and of no other
   frame. It is bounded twice, as it comes and as it is inflated.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_Resize
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from fastbcast._frames cimport (
    FIN,
    INVALID_DATA,
    MAX_CONTROL_PAYLOAD_BYTES,
    MESSAGE_TOO_BIG,
    NO_STATUS_RECEIVED,
    OPCODE_BINARY,
    OPCODE_CLOSE,
    OPCODE_CONTINUATION,
    OPCODE_PING,
    OPCODE_PONG,
    OPCODE_TEXT,
    POLICY_VIOLATION,
    PROTOCOL_ERROR,
    RESERVED,
    RSV1,
    is_sendable_close_code,
)
from fastbcast.deflate._inflate cimport INFLATED, NO_MEMORY, TOO_BIG, Inflater, Outcome

cdef enum:
    OPCODE = 0x0F
    MASKED = 0x80


cdef class ReadBuffer:
    """Where all clients of a hub read into, one after the other: what is read is used up before the next read."""

    def __cinit__(self, bint is_small=False):
        # The views keep it, and keep it from being resized.
        cdef bytearray storage = bytearray(READ_BYTES_OF_TINY_FRAMES if is_small else READ_BYTES)
        self.data = <uint8_t*>PyByteArray_AS_STRING(storage)
        self.large = memoryview(storage)
        self.small = self.large[:READ_BYTES_OF_TINY_FRAMES]


cdef class Parser:
    """The receiving half of one connection."""

    def __cinit__(self, Py_ssize_t max_message_bytes, unsigned int max_fragments, Inflater inflater=None):
        self.max_message_bytes = max_message_bytes
        self.max_fragments = max_fragments
        self.inflater = inflater

    def parse(self, data, bint is_held_back=False):
        """Feed a copy of `data` and return what comes of it (list of tuples); for tests.

        `is_held_back`: what is behind a message is kept, and fed again, as it is of a client that has to wait.
        """
        cdef bytearray copy = bytearray(data)
        cdef Event event
        cdef list events = []
        self.feed(<uint8_t*>PyByteArray_AS_STRING(copy), len(copy))
        while True:
            event = self.next_event()
            if event == NOTHING:
                copy = self.take_rest()
                if copy is None:
                    return events
                self.feed(<uint8_t*>PyByteArray_AS_STRING(copy), len(copy))
            elif event == MESSAGE:
                events.append(("message", self.message))
                if is_held_back:
                    self.keep_rest()
            elif event == CLOSE:
                events.append(("close", self.close_code, self.close_reason))
            elif event == FAILED:
                events.append(("failed", *self.failure))
            else:
                events.append(("ping" if event == PING else "pong", (<char*>self.control)[:self.control_len]))

    cdef int feed(self, uint8_t* data, Py_ssize_t len) noexcept:
        """Lend it the bytes of one read, until `next_event` has returned NOTHING."""
        self.data = data
        self.len = 0 if self.is_over else len
        self.inflated_bytes = 0
        return 0

    cdef int keep_rest(self) except -1:
        """Keep what is behind the last event, to be fed again later: there is nothing more until then."""
        if self.len:
            self.rest = PyByteArray_FromStringAndSize(<char*>self.data, self.len)
            self.len = 0
        return 0

    cdef bytearray take_rest(self):
        """Return what was kept, to feed it; None: nothing was."""
        cdef bytearray rest = self.rest
        self.rest = None
        return rest

    cdef Py_ssize_t partial_bytes(self) noexcept:
        """Return how much it keeps: of a message that is not whole yet, and of what is to be fed again."""
        return (0 if self.assembled is None else len(self.assembled)) + (0 if self.rest is None else len(self.rest))

    cdef Event next_event(self) except *:
        """Return what comes next of the bytes that were fed."""
        cdef Event event
        self.message = None
        while self.len or self.has_header:  # of an empty payload nothing is to come
            if not self.has_header and not self._read_header():
                return FAILED if self.is_over else NOTHING
            event = self._read_control() if self.opcode & 0x8 else self._read_data()
            if event != NOTHING:
                return event
            if self.has_header:
                break                       # the rest of this payload is to come
        return NOTHING

    cdef bint _read_header(self) except *:
        """Read the header, or what is here of it; returns whether it is whole and right."""
        cdef int wanted
        while True:
            wanted = 2 if self.header_len < 2 else self.header_bytes
            while self.header_len < wanted:
                if self.len == 0:
                    return False
                self.header[self.header_len] = self.data[0]
                self.header_len += 1
                self.data += 1
                self.len -= 1
            if wanted == 2:
                if not self._check_first_bytes():
                    return False
            else:
                self.header_len = 0
                self.has_header = self._check_length()
                return self.has_header

    cdef bint _check_first_bytes(self) except *:
        """Check all that the first two bytes tell (sections 5.1 to 5.5)."""
        cdef uint8_t length = self.header[1] & 0x7F
        self.opcode = self.header[0] & OPCODE
        self.is_final = self.header[0] & FIN != 0
        if self.header[0] & RESERVED and not self._may_compress():
            self.fail(PROTOCOL_ERROR, "reserved bits are set (RFC 6455 section 5.2)", "protocol_error")
        elif self.opcode not in (
            OPCODE_CONTINUATION, OPCODE_TEXT, OPCODE_BINARY, OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG
        ):
            self.fail(PROTOCOL_ERROR, "an unknown opcode (RFC 6455 section 5.2)", "protocol_error")
        elif not self.header[1] & MASKED:
            self.fail(PROTOCOL_ERROR, "a client's frame without a mask (RFC 6455 section 5.1)", "protocol_error")
        elif self.opcode & 0x8:
            if not self.is_final:
                self.fail(PROTOCOL_ERROR, "a control frame in fragments (RFC 6455 section 5.5)", "protocol_error")
            elif length > MAX_CONTROL_PAYLOAD_BYTES:
                self.fail(PROTOCOL_ERROR, "a control frame above 125 bytes (RFC 6455 section 5.5)", "protocol_error")
        elif self.opcode == OPCODE_CONTINUATION:
            if self.message_opcode == 0:
                self.fail(PROTOCOL_ERROR, "a continuation without a start (RFC 6455 section 5.4)", "protocol_error")
            elif self.fragments >= self.max_fragments:
                self.fail(POLICY_VIOLATION, "too many fragments", "too_many_fragments")
        elif self.message_opcode != 0:
            self.fail(PROTOCOL_ERROR, "a new message inside a fragmented one (RFC 6455 section 5.4)", "protocol_error")
        self.header_bytes = 2 + (0 if length < 126 else 2 if length == 126 else 8) + 4
        return not self.is_over

    cdef bint _may_compress(self) noexcept:
        """Whether the reserved bits are those of a compressed message's first frame (RFC 7692 section 6.1)."""
        return (
            self.inflater is not None and self.header[0] & RESERVED == RSV1
            and self.opcode in (OPCODE_TEXT, OPCODE_BINARY)
        )

    cdef bint _check_length(self) except *:
        """Take length and mask from the whole header, and begin the payload."""
        cdef int i
        cdef uint64_t length = self.header[1] & 0x7F
        if self.header_bytes > 6:
            length = 0
            for i in range(2, self.header_bytes - 4):
                length = length << 8 | self.header[i]
            if length >> 63 or length < (126 if self.header_bytes == 8 else 65536):
                self.fail(PROTOCOL_ERROR, "a length not in its shortest form (RFC 6455 section 5.2)", "protocol_error")
                return False
        memcpy(self.mask, &self.header[self.header_bytes - 4], 4)
        self.payload_left = length
        if self.opcode & 0x8:
            self.control_len = 0
            return True
        if self.opcode != OPCODE_CONTINUATION:
            self.message_opcode = self.opcode
            self.is_compressed = self.header[0] & RSV1 != 0
            self.fragments = 0
        self.fragments += 1
        if length > <uint64_t>(self.max_message_bytes - (0 if self.assembled is None else len(self.assembled))):
            self.fail(MESSAGE_TOO_BIG, "message too big", "message_too_big")
            return False
        return True

    cdef Event _read_control(self) except *:
        cdef int size = <int>min(self.payload_left, <uint64_t>self.len)
        unmask(self.data, size, self.mask)
        memcpy(&self.control[self.control_len], self.data, size)
        self.control_len += size
        self.payload_left -= size
        self.data += size
        self.len -= size
        if self.payload_left:
            return NOTHING
        self.has_header = False
        return self._finish_control()

    cdef Event _read_data(self) except *:
        """Read what is here of a data frame's payload."""
        cdef uint8_t* data = self.data
        cdef Py_ssize_t size = <Py_ssize_t>min(self.payload_left, <uint64_t>self.len)
        cdef Py_ssize_t assembled_bytes
        unmask(data, size, self.mask)
        self.payload_left -= <uint64_t>size
        self.data += size
        self.len -= size
        self.has_header = self.payload_left != 0
        if self.is_final and not self.has_header and self.assembled is None:
            return self._finish_message(data, size)     # all of it is here, in one piece
        if self.message_opcode == OPCODE_TEXT and not self.is_compressed and not check_utf8(&self.utf8, data, size):
            return self.fail(INVALID_DATA, "invalid UTF-8 in text", "invalid_text")
        if self.assembled is None:
            self.assembled = bytearray()
        assembled_bytes = len(self.assembled)
        PyByteArray_Resize(self.assembled, assembled_bytes + size)
        if size:
            memcpy(PyByteArray_AS_STRING(self.assembled) + assembled_bytes, data, size)
        if self.has_header or not self.is_final:
            return NOTHING
        return self._finish_message(<uint8_t*>PyByteArray_AS_STRING(self.assembled), len(self.assembled))

    cdef Event _finish_message(self, const uint8_t* data, Py_ssize_t len) except *:
        return self._inflate_message(data, len) if self.is_compressed else self._make_message(data, len)

    cdef Event _inflate_message(self, const uint8_t* data, Py_ssize_t len) except *:
        cdef Inflater inflater = self.inflater
        cdef Outcome outcome = inflater.inflate_message(data, len, self.max_message_bytes)
        self.inflated_bytes += inflater.inflated.all_bytes
        try:
            if outcome == INFLATED:
                return self._make_message(inflater.scratch.room.data, inflater.inflated.all_bytes)
        finally:
            inflater.scratch.shrink()
        if outcome == NO_MEMORY:
            raise MemoryError
        if outcome == TOO_BIG:
            return self.fail(MESSAGE_TOO_BIG, "message too big", "message_too_big")
        return self.fail(INVALID_DATA, "invalid compressed data (RFC 7692 section 7.2.2)", "invalid_data")

    cdef Event _make_message(self, const uint8_t* data, Py_ssize_t len) except *:
        if self.message_opcode == OPCODE_TEXT:
            try:
                self.message = PyUnicode_DecodeUTF8(<char*>data, len, NULL)
            except UnicodeDecodeError:
                return self.fail(INVALID_DATA, "invalid UTF-8 in text", "invalid_text")
        else:
            self.message = PyBytes_FromStringAndSize(<char*>data, len)
        self.message_opcode = 0
        self.assembled = None
        return MESSAGE

    cdef Event _finish_control(self) except *:
        if self.opcode == OPCODE_PING:
            return PING
        if self.opcode == OPCODE_PONG:
            return PONG
        self.close_code = NO_STATUS_RECEIVED
        self.close_reason = ""
        if self.control_len == 1:
            return self.fail(PROTOCOL_ERROR, "half a close code (RFC 6455 section 5.5.1)", "protocol_error")
        if self.control_len:
            self.close_code = self.control[0] << 8 | self.control[1]
            if not is_sendable_close_code(self.close_code):
                return self.fail(PROTOCOL_ERROR, "invalid close code (RFC 6455 section 7.4)", "protocol_error")
            try:
                self.close_reason = PyUnicode_DecodeUTF8(<char*>&self.control[2], self.control_len - 2, NULL)
            except UnicodeDecodeError:
                return self.fail(INVALID_DATA, "invalid UTF-8 in a close reason", "invalid_text")
        self.is_over = True
        self.len = 0
        return CLOSE

    cdef Event fail(self, int code, str reason, str cause) except *:
        """Give up: nothing more is looked at, and nothing kept."""
        self.failure = (code, reason, cause)
        self.is_over = True
        self.len = 0
        self.has_header = False
        self.assembled = None
        self.rest = None
        self.inflater = None
        return FAILED


cdef void unmask(uint8_t* data, Py_ssize_t len, uint8_t* mask) noexcept nogil:
    """Unmask `len` bytes in place (section 5.3), and turn `mask` for the byte behind them."""
    cdef uint64_t word, mask_word
    cdef uint8_t[8] twice
    cdef Py_ssize_t i = 0
    memcpy(twice, mask, 4)
    memcpy(&twice[4], mask, 4)
    memcpy(&mask_word, twice, 8)
    while i + 8 <= len:
        memcpy(&word, data + i, 8)
        word ^= mask_word
        memcpy(data + i, &word, 8)
        i += 8
    while i < len:
        data[i] ^= mask[i & 3]
        i += 1
    memcpy(mask, &twice[len & 3], 4)


cdef bint check_utf8(Utf8* state, const uint8_t* data, Py_ssize_t len) noexcept nogil:
    """Go on with a text; returns False at a byte that no UTF-8 has there.

    Which second bytes may follow which first ones: Unicode Standard, table 3-7 (RFC 3629 section 4).
    """
    cdef uint64_t word
    cdef uint8_t byte
    cdef Py_ssize_t i = 0
    while i < len:
        if state.left == 0 and i + 8 <= len:
            memcpy(&word, data + i, 8)
            if word & 0x8080808080808080ULL == 0:
                i += 8
                continue
        byte = data[i]
        i += 1
        if state.left:
            if not state.low <= byte <= state.high:
                return False
            state.left -= 1
            state.low = 0x80
            state.high = 0xBF
        elif byte >= 0x80:
            if not 0xC2 <= byte <= 0xF4:
                return False
            state.left = 1 if byte < 0xE0 else 2 if byte < 0xF0 else 3
            state.low = 0xA0 if byte == 0xE0 else 0x90 if byte == 0xF0 else 0x80
            state.high = 0x9F if byte == 0xED else 0x8F if byte == 0xF4 else 0xBF
    return True
