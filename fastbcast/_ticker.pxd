from libc.stdint cimport uint64_t


cdef class Ticker:
    cdef object loop                # of the timer that was set last
    cdef object timer               # the next step of a tick; None: it does not tick
    cdef object on_tick
    cdef bint is_excused            # the tick before was late, and judged nobody
    cdef uint64_t tick_ns
    cdef uint64_t counted_ns        # the time that had counted at the last tick, or start
    cdef uint64_t ticked_ns         # when that was, by the monotonic clock

    cdef uint64_t now_ns(self) noexcept nogil
    cdef int count(self) noexcept nogil
