from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastbcast.load._audit cimport Audit, Reader

cdef enum:
    # States of a connection, in their order.
    FREE = 0
    CONNECTING = 1
    HANDSHAKING = 2     # the request is on its way
    OPEN = 3
    LEAVING = 4         # our CLOSE was sent, theirs has not come

    LEAVE_SECONDS = 2               # for the answer to our CLOSE
    READ_BYTES = 262144             # most that one recv takes
    MAX_MESSAGE_BYTES = 67108864    # 64 MiB: a message that is longer is taken for garbage
    MAX_HEAD_BYTES = 16384          # of the answer to a handshake
    CLOSE_CODES = 5000              # RFC 6455 section 7.4: 1000 to 4999
    NO_STATUS_RECEIVED = 1005       # a CLOSE without a code
    ABNORMAL_CLOSURE = 1006         # no CLOSE at all


cdef extern from "<sys/epoll.h>" nogil:
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    cdef union epoll_data:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll_fd, epoll_event* events, int max_events, int timeout_ms)


cdef struct Connection:
    Reader reader               # a subscriber's; its receipts are NULL unless it is open
    int fd
    uint8_t state, kind
    uint32_t watched            # what the epoll set has for it
    bint is_inflated_alone      # permessage-deflate, and the server promised no context takeover
    bint has_deflate
    uint32_t number             # where it stands in `connections`
    uint32_t at                 # a publisher's stream, a subscriber's channel
    uint64_t connect_ns         # when it began to connect; to leave, if it is LEAVING
    # How it reads: `pace_bytes` every `pace_ns`; 0 bytes: all there is; 0 ns: whenever there is something.
    uint64_t pace_ns, pace_bytes, next_read_ns
    # Bytes that are not a whole frame yet.
    uint8_t* kept
    size_t kept_bytes
    # A message that came in fragments.
    uint8_t* message
    size_t message_bytes
    uint8_t message_opcode, message_rsv
    # What the kernel has not taken yet: the request, then frames.
    uint8_t* unsent
    size_t unsent_start, unsent_end, unsent_capacity
    uint8_t accept[28]          # Sec-WebSocket-Accept, as it must be


cdef class Crowd(Audit):
    # Set once.
    cdef int epoll_fd
    cdef readonly uint32_t capacity
    cdef bint has_prefix            # nothing here is published: messages begin with `prefix`, if it is not empty
    cdef bytes prefix
    cdef const uint8_t* prefix_data
    cdef size_t prefix_bytes
    # State.
    cdef Connection* connections
    cdef uint32_t top               # connections from there on were never used
    cdef list free_numbers
    cdef readonly uint32_t connecting       # handshakes under way
    cdef uint64_t next_read_ns      # when a slow subscriber reads again
    cdef uint32_t slow_count
    cdef uint32_t* slow_numbers
    cdef uint8_t* read_buf
    cdef size_t read_buf_bytes
    cdef dict inflaters             # number -> its decompressor
    cdef dict problems              # what went wrong with handshakes -> how often
    cdef uint32_t closes[CLOSE_CODES]
    cdef uint64_t mask_state

    cdef bint _send_request(self, Connection* connection) noexcept nogil
    cdef bint _flush(self, Connection* connection) noexcept nogil
    cdef bint _append(self, Connection* connection, const uint8_t* data, size_t len) noexcept nogil
    cdef void _send_control(
        self, Connection* connection, uint8_t opcode, const uint8_t* payload, size_t len
    ) noexcept nogil
    cdef void _watch(self, Connection* connection) noexcept nogil
    cdef void _refuse(self, Connection* connection, const char* problem, int error) noexcept nogil
    cdef void _lose(self, Connection* connection, uint32_t code) noexcept nogil
    cdef void _free(self, Connection* connection) noexcept nogil
    cdef bint _read(self, Connection* connection, size_t most_bytes) noexcept nogil
    cdef void _read_slow(self, uint64_t now) noexcept nogil
    cdef size_t _take_response(
        self, Connection* connection, const uint8_t* head, size_t len, uint64_t read_ns
    ) noexcept nogil
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
    cdef void _take_compressed(
        self, Connection* connection, const uint8_t* payload, size_t len, uint64_t read_ns
    ) noexcept with gil
    cdef object _inflate(self, Connection* connection, bytes payload)
    cdef void _close_reader(self, Connection* connection) noexcept nogil
    cdef void _write_off(self, uint64_t now) noexcept nogil
    cdef bint _reserve(self, size_t len) noexcept nogil
    cdef uint32_t _next_mask(self) noexcept nogil
    cdef void _handle(self, Connection* connection, uint32_t events) noexcept nogil
