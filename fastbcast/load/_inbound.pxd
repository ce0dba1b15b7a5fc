from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastbcast.deflate._inflate cimport Room
from fastbcast.load._crowd cimport Connection, Crowd
from fastbcast.load._strand cimport Strand

cdef enum:
    READS_IN_A_ROW = 16             # of one connection, before others have their turn
    READ_BYTES = 262144             # most that one recv takes
    MAX_MESSAGE_BYTES = 67108864    # 64 MiB: a message that is longer is taken for garbage
    MAX_UNSENT_PONGS = 512          # of one connection, some 64 KiB: a server that sends PINGs may not read


cdef class Inbound(Crowd):
    # Set once.
    cdef uint64_t max_message_bytes         # longer is garbage
    cdef bint has_prefix            # nothing here is published: messages begin with `prefix`, if it is not empty
    cdef bytes prefix
    cdef const uint8_t* prefix_data
    cdef size_t prefix_bytes
    # State.
    cdef uint8_t* read_buf
    cdef size_t read_buf_bytes
    cdef Strand** newest            # [channel]: the one that was begun last, for steady subscribers; NULL: none
    cdef Room room                  # where a message is inflated to

    cdef void _handle(self, Connection* connection, uint32_t events) noexcept nogil
    cdef void _read_slow(self, uint64_t now) noexcept nogil
    cdef void _read_all(self, Connection* connection, bint is_ended) noexcept nogil
    cdef bint _read(self, Connection* connection, size_t most_bytes) noexcept nogil
    cdef size_t _take_frames(
        self, Connection* connection, const uint8_t* data, size_t len, uint64_t read_ns
    ) noexcept nogil
    cdef void _take_data(
        self, Connection* connection, uint8_t opcode, bint is_final, uint8_t rsv, const uint8_t* payload, size_t len,
        uint64_t read_ns
    ) noexcept nogil
    cdef void _take_message(
        self, Connection* connection, uint8_t rsv, const uint8_t* payload, size_t len, uint64_t read_ns
    ) noexcept nogil
    cdef void _take_control(
        self, Connection* connection, uint8_t opcode, const uint8_t* payload, size_t len
    ) noexcept nogil
    cdef void _begin_to_inflate(self, Connection* connection) noexcept nogil
    cdef void _shorten(self, Strand* strand) noexcept nogil
    cdef bint _reserve(self, size_t len) noexcept nogil
