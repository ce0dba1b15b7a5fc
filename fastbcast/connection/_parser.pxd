from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastbcast._frames cimport MAX_CONTROL_PAYLOAD_BYTES
from fastbcast.deflate._inflate cimport Inflater

cdef enum:
    MAX_HEADER_BYTES = 14           # RFC 6455 section 5.2: two bytes, a length of eight, a mask of four


cdef enum:
    # What is read of one client before the others have their turn: a batch of a busy publisher, but only a little
    # of a client whose last read brought more than MANY_EVENTS, since each costs about a microsecond.
    READ_BYTES = 65536
    READ_BYTES_OF_TINY_FRAMES = 4096
    MANY_EVENTS = 256
    # The same for what it brought compressed: up to a thousand times its bytes, at some two milliseconds for so much.
    MANY_INFLATED_BYTES = 1048576


cdef enum Event:
    NOTHING = 0                     # all that was fed is used up; feed more
    MESSAGE = 1                     # `message`
    PING = 2                        # `control`, `control_len`
    PONG = 3                        # the same
    CLOSE = 4                       # `close_code`, `close_reason`; nothing behind it is looked at
    FAILED = 5                      # `failure`; the same


cdef struct Utf8:
    # Where a text is in a character: how many bytes of it are to come, and the bounds of the next one.
    uint8_t left
    uint8_t low, high


cdef class ReadBuffer:
    cdef uint8_t* data
    cdef readonly object large, small   # memoryviews of all of it and of its beginning


cdef class Parser:
    # Set once.
    cdef Py_ssize_t max_message_bytes
    cdef uint32_t max_fragments
    cdef Inflater inflater              # None: permessage-deflate was not negotiated
    # Fed, and not used up: borrowed from whoever calls `next_event`.
    cdef uint8_t* data
    cdef Py_ssize_t len
    cdef bytearray rest                 # not used up, and kept by `keep_rest`; None: nothing is
    # The frame at hand: its header as far as it is here, then how much of its payload is to come.
    cdef uint8_t[MAX_HEADER_BYTES] header
    cdef int header_len, header_bytes
    cdef bint has_header
    cdef bint is_final
    cdef uint8_t opcode
    cdef uint8_t[4] mask                # turned so that its first byte is for the next byte of the payload
    cdef uint64_t payload_left
    # The message at hand; opcode 0: none.
    cdef uint8_t message_opcode
    cdef bint is_compressed
    cdef Py_ssize_t inflated_bytes      # of all messages since it was last fed
    cdef uint32_t fragments
    cdef Utf8 utf8
    cdef bytearray assembled            # of a message that is not here in one piece
    # What an event is about, until the next one.
    cdef object message                 # str or bytes
    cdef uint8_t[MAX_CONTROL_PAYLOAD_BYTES] control
    cdef int control_len
    cdef int close_code                 # 1005: it had none
    cdef str close_reason
    cdef tuple failure                  # (close code, reason, cause)
    cdef bint is_over                   # a CLOSE came, or it failed

    cdef int feed(self, uint8_t* data, Py_ssize_t len) noexcept
    cdef Event next_event(self) except *
    cdef int keep_rest(self) except -1
    cdef bytearray take_rest(self)
    cdef Py_ssize_t partial_bytes(self) noexcept
    cdef Event fail(self, int code, str reason, str cause) except *
    cdef bint _read_header(self) except *
    cdef bint _check_first_bytes(self) except *
    cdef bint _may_compress(self) noexcept
    cdef bint _check_length(self) except *
    cdef Event _read_control(self) except *
    cdef Event _read_data(self) except *
    cdef Event _finish_message(self, const uint8_t* data, Py_ssize_t len) except *
    cdef Event _inflate_message(self, const uint8_t* data, Py_ssize_t len) except *
    cdef Event _make_message(self, const uint8_t* data, Py_ssize_t len) except *
    cdef Event _finish_control(self) except *
