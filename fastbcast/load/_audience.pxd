from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastbcast.load._inbound cimport Inbound


cdef struct Listener:
    # What one connection has come to; it outlives the connection.
    uint64_t messages           # whole ones that it got
    uint64_t ping               # in the payload of its newest PING; 0: nothing is unanswered
    uint32_t close_code         # with which the server ended it; 0: it did not


cdef struct Entry:
    # In the journal, before each payload.
    uint32_t number, opcode
    uint64_t payload_bytes


cdef class Audience(Inbound):
    # Set once.
    cdef int wake_fd
    cdef readonly uint64_t max_kept_bytes
    # State.
    cdef Listener* listeners        # [number]
    cdef uint64_t pings
    cdef readonly uint32_t unanswered   # connections that have sent a PING and got no PONG yet
    cdef uint64_t news              # how often something happened that somebody may wait for
    cdef uint8_t* journal           # messages that nobody has taken: an Entry, then the payload
    cdef size_t journal_bytes, journal_capacity
    cdef readonly uint64_t kept_bytes       # payload that was ever written into it
    cdef readonly uint64_t dropped_messages     # what was not, since that would have been above `max_kept_bytes`

    cdef void _listen(self, uint64_t until_ns, int64_t most_connecting) noexcept nogil
    cdef void _keep(self, uint32_t number, uint32_t opcode, const uint8_t* payload, size_t len) noexcept nogil
    cdef bint _send(self, uint32_t number, uint8_t opcode, bytes payload) except -1
    cdef void _answered(self, Listener* listener) noexcept nogil
