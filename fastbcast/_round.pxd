from libc.stdint cimport uint32_t, uint64_t

from fastbcast._policy cimport Place, Slot
from fastbcast._roster cimport Subscription
from fastbcast._sweeper cimport Counters, Verdict
from fastbcast._tally cimport Tally


cdef class Round(Tally):
    # Set once.
    cdef Counters counters
    # The round: see the module's docstring.
    cdef uint32_t position, remaining
    cdef bint needs_round
    cdef bint has_returners             # some were behind, and are brought to the tail by rounds
    cdef uint64_t appended              # bytes of all messages so far, as plain frames
    cdef uint64_t offered               # every slot has been offered what those are before this
    cdef uint64_t round_end             # `appended` when the round began
    cdef bint has_leftover              # a backlog took more than one send
    cdef uint64_t round_began_ns
    cdef uint32_t random
    cdef uint64_t next_release_ns       # with a limit of the rate: when the next round may begin

    cdef bint _begin_round(self) except -1
    cdef int _end_round(self) except -1
    cdef int ask_for_round(self) except -1
    cdef int run_slice(self, uint64_t deadline_ns, bint is_turn_end) noexcept nogil
    cdef int settle(self, uint64_t deadline_ns) except -1
    cdef int _set_aside(self, uint32_t index, Verdict verdict, int error) noexcept nogil
    cdef int keeps_up(self, Place* place) noexcept nogil
    cdef int _jump(self, Slot* slot, uint64_t limit) noexcept nogil
    cdef int _hand_over(self, Subscription subscription) except -1
    cdef int _send_encrypted(self, Subscription subscription, uint64_t deadline_ns) except -1
    cdef int _give(
        self, Subscription subscription, object rest, uint64_t seq, uint64_t end_seq, uint64_t first_ns
    ) except -1
    cdef int evict(self, Subscription subscription, str cause) except -1
    cdef int fail(self, Subscription subscription, int error) except -1
    cdef int send_compacted(self, Subscription subscription, uint64_t max_messages, uint64_t deadline_ns) except -1
    cdef int _pass_over(self, Slot* slot, uint64_t seq, uint64_t keyless) noexcept
    cdef int trim(self) except -1
