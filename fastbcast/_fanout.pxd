from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from fastbcast._log cimport Log
from fastbcast._wire cimport Socket, Wire


cdef enum:
    ASIDE_CAPACITY = 64     # slots that one slice may set aside before Python looks at them


cdef struct Slot:
    uint64_t cursor         # offset of the next byte to send; a frame boundary while Python has control
    uint64_t judged_from    # lag counts from here: the end of the burst in which it fell behind
    Socket* socket          # its client's, shared by all of the client's slots
    PyObject* subscription  # an owned reference, so that no slot outlives its client


cdef enum Verdict:
    REFUSED = 0             # the kernel took a part of the bytes, or none
    FAILED = 1              # send(2) failed
    OVER_LIMIT = 2          # too far behind


cdef struct Aside:
    # A slot that a slice could not finish, for the code with the GIL.
    uint32_t index
    Verdict verdict
    int error               # errno, where the verdict is FAILED


cdef class Subscription:
    cdef readonly Fanout fanout
    cdef Wire wire
    cdef uint32_t index             # of its slot; valid while is_active
    cdef readonly bint is_active
    cdef bint has_rest              # the Transport holds the rest of the frame that ends at the cursor


cdef class Counters:
    # Sums over all channels of a hub.
    cdef readonly uint64_t published_messages, published_bytes
    cdef readonly uint64_t delivered_messages, sent_bytes, sends, refused_sends, failed_sends
    cdef readonly uint64_t sweeps, slices, inline_sweeps


cdef class Flush:
    cdef readonly uint64_t target       # the tail when it was asked for
    cdef readonly uint32_t subscribers  # then
    cdef readonly uint32_t evicted, left
    cdef object on_done                 # called once with no argument, on the loop's thread


cdef class Sweeper:
    cdef object loop
    cdef object dirty                   # deque of Fanouts, each at most once (is_dirty)
    cdef unsigned long thread_ident     # of the loop; 0 until `bind`
    cdef readonly Counters counters
    cdef readonly uint64_t slice_ns
    cdef bint is_scheduled
    cdef bint is_sweeping               # guards against re-entry
    # Set aside by the slice that runs, settled before anything else may run.
    cdef Aside[ASIDE_CAPACITY] asides
    cdef uint32_t aside_count

    cdef int check_thread(self, str what) except -1
    cdef int mark_dirty(self, Fanout fanout) except -1
    cdef int schedule(self) except -1


cdef class Fanout:
    cdef object __weakref__
    cdef readonly str name
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
    cdef double coalesce_seconds
    cdef bint is_dirty
    cdef list flushes                   # Flush objects not yet finished; None if there are none

    cdef uint64_t _appended(self, uint64_t seq, uint64_t frame_bytes) except 0
    cdef Subscription subscribe(self, Wire wire)
    cdef int unsubscribe(self, Subscription subscription, bint is_evicted) except -1
    cdef bint sweep(self, uint64_t deadline_ns, bint is_turn_end) except -1
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
