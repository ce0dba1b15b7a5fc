from libc.stdint cimport uint32_t, uint64_t

from fastbcast.fanout._delivery cimport Delivery
from fastbcast.fanout._slot cimport Slice, Slot


cdef struct RoundState:
    # The round that is under way: see the docstring of _round.pyx.
    uint32_t position, remaining        # index of the slot that is visited next; visits to come, 0: there is no round
    uint64_t end                        # `appended` when the round began
    uint64_t began_ns
    bint has_leftover                   # a backlog took more than one send
    # Across rounds.
    uint64_t appended                   # bytes of all messages so far, as plain frames
    uint64_t offered                    # every slot has been offered the messages that make up so many of those bytes
    uint32_t random                     # state of xorshift32, which chooses where a round begins
    uint64_t next_release_ns            # with a rate limit: when the next round may begin


cdef class Round(Delivery):
    cdef RoundState round

    cdef bint _begin_round(self) except -1
    cdef int _end_round(self) except -1
    cdef int run_slice(self, Slice* part) noexcept nogil
    cdef int settle(self, Slice* part, uint64_t deadline_ns) except -1
    cdef int _read_compacted(self, Slot* slot) noexcept
    cdef int _jump(self, Slot* slot, uint64_t limit) noexcept
    cdef int trim(self) except -1
