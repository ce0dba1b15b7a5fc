from libc.stdint cimport uint32_t, uint64_t

from fastbcast.fanout._slot cimport Slot, SlotDetails
from fastbcast.fanout._sweeper cimport Sweepable, Sweeper
from fastbcast.fanout._wire cimport Wire
from fastbcast.log._compact cimport CompactLog
from fastbcast.log._log cimport Log

cdef enum:
    LAG_BUCKETS = 7


cdef struct LagTotals:
    uint64_t behind                     # subscribers
    uint64_t bytes, messages            # sums over them
    uint64_t max_bytes
    uint64_t oldest_ns                  # when the oldest unsent message was published; 0: there is none
    uint64_t[LAG_BUCKETS] by_bytes      # subscribers, by the upper bounds LAG_BOUNDS


cdef class Subscription:
    cdef readonly Roster channel
    cdef Wire wire
    cdef SlotDetails details
    cdef uint32_t index             # of its slot; valid while is_active
    cdef readonly bint is_active


cdef class Roster(Sweepable):
    # Set once.
    cdef Sweeper sweeper
    cdef Log log                    # the plain lane: the one that every channel has
    cdef CompactLog compact         # of a channel that conflates, else None
    # Subscribers: dense, unordered.
    cdef Slot* slots
    cdef uint32_t count, capacity

    cdef Subscription enroll(self, Wire wire)
    cdef int strike(self, Subscription subscription) except -1
    cdef bint is_behind(self, Subscription subscription) noexcept
    cdef int add_lag(self, Slot* slot, LagTotals* totals) noexcept nogil
    cdef uint64_t oldest_cursor(self) noexcept nogil
    cdef uint64_t oldest_seq(self) noexcept nogil


cdef double lag_seconds(LagTotals* totals) noexcept
