from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastbcast.load._audit cimport Audit, Reader
from fastbcast.load._strand cimport Follower

cdef enum:
    # States of a connection, in their order.
    FREE = 0
    CONNECTING = 1
    HANDSHAKING = 2     # the request is on its way
    OPEN = 3
    LEAVING = 4         # our CLOSE was sent, theirs has not come

    LEAVE_SECONDS = 2               # for the answer to our CLOSE
    MAX_HEAD_BYTES = 16384          # of the answer to a handshake
    MAX_PROBLEMS = 64               # different ones that are told apart
    CLOSE_CODES = 5000              # RFC 6455 section 7.4: 1000 to 4999
    NO_STATUS_RECEIVED = 1005       # a CLOSE without a code
    ABNORMAL_CLOSURE = 1006         # no CLOSE at all


cdef extern from "<sys/epoll.h>" nogil:
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    cdef union epoll_data:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll_fd, epoll_event* events, int max_events, int timeout_ms)


cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT


cdef struct Connection:
    Reader reader               # a subscriber's; its receipts are NULL unless it is open
    int fd
    uint8_t state, kind
    uint32_t watched            # what the epoll set has for it
    bint is_inflated_alone      # permessage-deflate, and the server promised no context takeover
    bint has_deflate
    bint offers_extensions      # in its request
    bint offers_subprotocols
    Follower follower           # of its compressed messages
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
    uint8_t message_rsv
    uint8_t message_opcode      # of the newest message, in fragments or not
    # What the kernel has not taken yet: the request, then frames.
    uint8_t* unsent
    size_t unsent_start, unsent_end, unsent_capacity
    uint32_t unsent_pongs       # since all was sent
    uint8_t accept[28]          # Sec-WebSocket-Accept, as it must be


cdef class Crowd(Audit):
    # Set once.
    cdef int epoll_fd
    cdef readonly uint32_t capacity
    # State.
    cdef Connection* connections
    cdef uint32_t top               # connections from there on were never used
    cdef list free_numbers
    cdef readonly uint32_t connecting       # handshakes under way
    cdef uint64_t next_read_ns      # when a slow subscriber reads again
    cdef uint32_t slow_count
    cdef uint32_t* slow_numbers
    cdef dict problems              # what went wrong with handshakes -> how often
    cdef uint32_t closes[2][CLOSE_CODES]    # of slow subscribers, and of all others
    cdef uint64_t mask_state

    cdef bint _send_request(self, Connection* connection) noexcept nogil
    cdef bint _flush(self, Connection* connection) noexcept nogil
    cdef bint _append(self, Connection* connection, const uint8_t* data, size_t len) noexcept nogil
    cdef void _send_control(
        self, Connection* connection, uint8_t opcode, const uint8_t* payload, size_t len
    ) noexcept nogil
    cdef void _watch(self, Connection* connection) noexcept nogil
    cdef void _watch_again(self, Connection* connection) noexcept nogil
    cdef void _refuse(self, Connection* connection, const char* problem, int error) noexcept nogil
    cdef void _lose(self, Connection* connection, uint32_t code) noexcept nogil
    cdef void _free(self, Connection* connection) noexcept nogil
    cdef size_t _take_response(
        self, Connection* connection, const uint8_t* head, size_t len, uint64_t read_ns
    ) noexcept nogil
    cdef void _close_reader(self, Connection* connection) noexcept nogil
    cdef void _write_off(self, uint64_t now) noexcept nogil
    cdef uint32_t _next_mask(self) noexcept nogil
