from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastbcast.load._crowd cimport Connection
from fastbcast.load._inbound cimport Inbound

cdef enum:
    MAX_UNSENT_BYTES = 4194304      # of one publisher; past it nothing more is published there


cdef class Fleet(Inbound):
    # Set once.
    cdef uint8_t opcode             # of what is published
    cdef int wake_fd                # an eventfd all processes have; -1: there is one process
    # State. Only the first process publishes.
    cdef int timer_fd
    cdef Connection** publishers    # [stream], NULL: none is open
    cdef readonly uint64_t scheduled        # messages of this schedule that were published, or lost their publisher
    cdef uint64_t limit
    cdef uint64_t in_flight
    cdef bint is_judged_by_all
    cdef double rate                # messages a second; 0: closed loop
    cdef uint64_t start_ns
    cdef readonly bint was_throttled        # an open loop had to wait for the server
    cdef uint64_t seen_write_offs
    cdef uint64_t moved             # sum of `settled` and `first` when the first process was last woken

    cdef void _publish_due(self, uint64_t now) noexcept nogil
    cdef bint _publish(self, uint32_t stream, uint64_t intended_ns) noexcept nogil
    cdef bint _is_settled(self) noexcept nogil
    cdef void _run(self, uint64_t until_ns, int64_t most_connecting) noexcept nogil
    cdef void _wake_first(self) noexcept nogil
