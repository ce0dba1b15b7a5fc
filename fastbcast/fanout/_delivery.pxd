from libc.stdint cimport uint64_t

from fastbcast.fanout._roster cimport Subscription
from fastbcast.fanout._slot cimport Slot, SlotDetails
from fastbcast.fanout._sweeper cimport Counters
from fastbcast.fanout._tally cimport Tally


cdef struct DeliveryState:
    bint needs_round                    # a subscriber lacks something, and one more round visits it
    bint has_returners                  # some subscribers were behind, and are brought to the tail by rounds


cdef class Delivery(Tally):
    cdef Counters counters              # set once
    cdef DeliveryState delivery

    cdef int ask_for_round(self) except -1
    cdef int leave_to_rounds(self) except -1
    cdef int keeps_up(self, SlotDetails* details) noexcept nogil
    cdef int hand_over(self, Subscription subscription) except -1
    cdef int send_by_transport(self, Subscription subscription, uint64_t deadline_ns) except -1
    cdef int send_compacted(self, Subscription subscription, uint64_t max_messages, uint64_t deadline_ns) except -1
    cdef bint excuse(self, Subscription subscription) except -1
    cdef int evict(self, Subscription subscription, str cause) except -1
    cdef int fail(self, Subscription subscription, int error) except -1
    cdef int _give(
        self, Subscription subscription, object rest, uint64_t seq, uint64_t end_seq, uint64_t first_ns
    ) except -1
    cdef int _pass_over(self, Slot* slot, uint64_t seq, uint64_t keyless) noexcept
