from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint8_t, uint64_t

# RFC 6455 section 5.2: opcodes.
cdef enum:
    OPCODE_CONTINUATION = 0x0
    OPCODE_TEXT = 0x1
    OPCODE_BINARY = 0x2
    OPCODE_CLOSE = 0x8
    OPCODE_PING = 0x9
    OPCODE_PONG = 0xA

cdef enum:
    # The other bits of a frame's first byte.
    FIN = 0x80
    RESERVED = 0x70
    RSV1 = 0x40         # on a message's first frame: the message is compressed (RFC 7692 section 6)

cdef enum:
    MAX_CONTROL_PAYLOAD_BYTES = 125  # section 5.5

# Close codes: RFC 6455 section 7.4.1, and the registry that it made (https://www.iana.org/assignments/websocket).
# CloseCode of _frames.pyx gives them to Python.
cdef enum:
    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005       # never sent: a CLOSE without a code has come
    ABNORMAL_CLOSURE = 1006         # never sent: no CLOSE has come
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010      # sent by clients only
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014


cdef struct Payload:
    # A borrowed view of a message's bytes: valid between `acquire_payload` and `release_payload`, and only
    # while the message itself is alive.
    const uint8_t* data
    Py_ssize_t len
    uint8_t opcode          # TEXT for str, BINARY for a buffer
    bint has_view           # `view` must be released
    Py_buffer view


cdef int acquire_payload(object message, object text, Payload* payload) except -1
cdef void borrow_payload(const uint8_t* frame, Py_ssize_t frame_bytes, Payload* payload) noexcept
cdef void release_payload(Payload* payload) noexcept

cdef inline Py_ssize_t header_len(uint64_t payload_len) noexcept nogil:
    """Return the size of a frame's header, which no server masks."""
    return 2 if payload_len < 126 else 4 if payload_len < 65536 else 10


cdef inline Py_ssize_t frame_len(uint64_t payload_len) noexcept nogil:
    return header_len(payload_len) + <Py_ssize_t>payload_len


cdef Py_ssize_t write_header(uint8_t* out, uint8_t first_bits, uint64_t payload_len) noexcept nogil
cdef void write_frame(uint8_t* out, uint8_t opcode, const uint8_t* data, uint64_t payload_len) noexcept nogil

cdef bytes make_frame(uint8_t opcode, const uint8_t* data, Py_ssize_t payload_len)
cpdef bytes encode(object message, object text=*, Py_ssize_t max_message_bytes=*)
cpdef bytes encode_close(code, str reason=*)
cpdef bint is_sendable_close_code(code) except -1
