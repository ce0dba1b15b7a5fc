from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from fastbcast._log cimport Log
from fastbcast._sweeper cimport Counters, Sweepable, Sweeper, Verdict
from fastbcast._wire cimport Socket, Wire


cdef struct Slot:
    uint64_t cursor         # offset of the next byte to send; a frame boundary while Python has control
    uint64_t judged_from    # lag counts from here: the end of the burst in which it fell behind
    Socket* socket          # its client's, shared by all of the client's slots
    PyObject* subscription  # an owned reference, so that no slot outlives its client


cdef class Subscription:
    cdef readonly Fanout fanout
    cdef Wire wire
    cdef uint32_t index             # of its slot; valid while is_active
    cdef readonly bint is_active
    cdef bint has_rest              # the Transport holds the rest of the frame that ends at the cursor


cdef class Flush:
    cdef readonly uint64_t target       # the tail when it was asked for
    cdef readonly uint32_t subscribers  # then
    cdef readonly uint32_t evicted, left
    cdef object on_done                 # called once with no argument, on the loop's thread


cdef class Fanout(Sweepable):
    cdef Log log
    cdef Sweeper sweeper
    cdef Counters counters
    # Subscribers: dense, unordered.
    cdef Slot* slots
    cdef uint32_t count, capacity
    # The round: see the module's docstring.
    cdef uint32_t position, remaining
    cdef bint needs_round
    cdef uint64_t offered               # every slot has been offered the bytes before this
    cdef uint64_t round_tail            # the tail when the round began
    cdef uint32_t random
    # Limits, set once.
    cdef uint64_t max_message_bytes, max_lag_bytes, max_burst_bytes, max_unswept_bytes
    cdef list flushes                   # Flush objects not yet finished; None if there are none

    cdef uint64_t _appended(self, uint64_t seq, uint64_t frame_bytes) except 0
    cdef Subscription subscribe(self, Wire wire)
    cdef int unsubscribe(self, Subscription subscription, bint is_evicted) except -1
    cdef int catch_up(self, Subscription subscription) except -1
    cdef int resume(self, Subscription subscription) except -1
    cdef int _begin_round(self) noexcept
    cdef int _run_slice(self, uint64_t deadline_ns, bint is_turn_end) noexcept nogil
    cdef int _set_aside(self, uint32_t index, Verdict verdict, int error) noexcept nogil
    cdef bint _is_over_limit(self, Slot* slot, bint is_turn_end) noexcept nogil
    cdef int _settle(self) except -1
    cdef int _hand_over(self, Subscription subscription) except -1
    cdef int _trim(self) except -1
    cdef int _check_flushes(self) except -1
    cdef bint _is_pending(self, Subscription subscription, uint64_t target) noexcept
