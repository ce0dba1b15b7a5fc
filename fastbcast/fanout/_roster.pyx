"""Who is subscribed to a channel: a dense array of slots, and how far behind each of them is.

    slots:  [ Slot ][ Slot ][ Slot ] ...     drawn in _slot.pxd

Invariants

1. A slot is in the array if and only if its subscription is active, and slots[i].details is the one of the
   subscription whose index is i. Removal moves the last slot into the hole.
2. slot.seq is the message that starts at slot.cursor. Both say what the subscriber has, also of one that
   reads from the compact log: there the channel's log may have forgotten that offset.
3. Lag is a subtraction: bytes, messages, and the age of the oldest message not sent, which the log's
   index tells (for a compacted slot a binary search finds it).
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from fastbcast._clock cimport coarse_ns
from fastbcast.fanout._slot cimport KEEPING_UP, Slot
from fastbcast.fanout._sweeper cimport Sweepable
from fastbcast.fanout._wire cimport Wire
from fastbcast.log._log cimport published_ns

from fastbcast import typing

LAG_BOUNDS = (0, 1 << 10, 1 << 14, 1 << 16, 1 << 18, 1 << 20)   # bytes; then all above
cdef uint64_t[LAG_BUCKETS] lag_bounds
for _i in range(LAG_BUCKETS - 1):
    lag_bounds[_i] = LAG_BOUNDS[_i]
lag_bounds[LAG_BUCKETS - 1] = UINT64_MAX


cdef class Subscription:
    """One client's membership in one channel: owns the SlotDetails of its slot."""

    def __init__(self):
        raise TypeError("use client.subscribe(channel)")


cdef class Roster(Sweepable):
    """The subscribers of one channel, and the log that their cursors point into."""

    def __dealloc__(self):
        free(self.slots)

    @property
    def subscribers(self):
        """How many clients are subscribed."""
        return self.count

    cdef Subscription enroll(self, Wire wire):
        """Add `wire`'s client at the tail of the plain log."""
        cdef Slot* slots
        cdef uint32_t wanted
        cdef Subscription subscription
        if self.count == self.capacity:
            wanted = max(1, self.capacity + self.capacity // 2 + 1)
            slots = <Slot*>realloc(self.slots, wanted * sizeof(Slot))
            if slots == NULL:
                raise MemoryError("no memory for a channel's subscribers")
            self.slots = slots
            self.capacity = wanted
        subscription = Subscription.__new__(Subscription)
        subscription.channel = self
        subscription.wire = wire
        subscription.index = self.count
        subscription.is_active = True
        subscription.details.judged_from = KEEPING_UP
        subscription.details.subscription = <PyObject*>subscription
        Py_INCREF(subscription)
        self.slots[self.count] = Slot(
            &self.log.lane, self.log.lane.tail, self.log.lane.next_seq, &wire.socket, &subscription.details
        )
        self.count += 1
        return subscription

    cdef int strike(self, Subscription subscription) except -1:
        """Remove an active subscription; the caller sees to a round that is under way."""
        subscription.is_active = False
        self.count -= 1
        if subscription.index != self.count:
            self.slots[subscription.index] = self.slots[self.count]
            (<Subscription>self.slots[subscription.index].details.subscription).index = subscription.index
        subscription.details.subscription = NULL
        Py_DECREF(subscription)
        return 0

    cdef uint64_t oldest_cursor(self) noexcept nogil:
        """Return the lowest cursor that the log is kept for, if all are in it; stops at the log's head."""
        cdef uint64_t oldest = self.log.lane.tail
        cdef uint32_t i
        cdef bint is_conflating = self.compact is not None
        for i in range(self.count):
            if self.slots[i].cursor < oldest and not (is_conflating and self.slots[i].details.is_compacted):
                oldest = self.slots[i].cursor
                if oldest == self.log.lane.head:
                    break
        return oldest

    cdef uint64_t oldest_seq(self) noexcept nogil:
        """Return the lowest seq that a subscriber lacks."""
        cdef uint64_t oldest = self.log.lane.next_seq
        cdef uint32_t i
        for i in range(self.count):
            oldest = min(oldest, self.slots[i].seq)
        return oldest

    # Lag.

    cdef bint is_behind(self, Subscription subscription) noexcept:
        return subscription.is_active and self.slots[subscription.index].seq != self.log.lane.next_seq

    cdef int add_lag(self, Slot* slot, LagTotals* totals) noexcept nogil:
        """Add one subscriber; what the Transport holds of its last message counts as a message not sent."""
        cdef uint64_t lag = slot.lane.tail - slot.cursor
        cdef uint64_t oldest_ns = slot.details.rest_ns if slot.details.rest_seq else 0
        cdef int i = 0
        if slot.seq != self.log.lane.next_seq and oldest_ns == 0:
            if slot.seq >= slot.lane.first_seq:
                oldest_ns = published_ns(slot.lane, slot.seq)
            else:
                oldest_ns = self.compact.oldest_ns(slot.seq)
        if lag or slot.details.rest_seq:
            totals.behind += 1
        totals.bytes += lag
        totals.messages += self.log.lane.next_seq - slot.seq
        if slot.details.rest_seq:
            totals.messages += slot.details.rest_end_seq - slot.details.rest_seq
        totals.max_bytes = max(totals.max_bytes, lag)
        if oldest_ns and (totals.oldest_ns == 0 or oldest_ns < totals.oldest_ns):
            totals.oldest_ns = oldest_ns
        while lag > lag_bounds[i]:
            i += 1
        totals.by_bytes[i] += 1
        return 0

    def _sum_lag(self):
        """Return the typing.LagTotals of all subscribers."""
        cdef LagTotals totals
        cdef uint32_t i
        memset(&totals, 0, sizeof(LagTotals))
        with nogil:
            for i in range(self.count):
                self.add_lag(&self.slots[i], &totals)
        return typing.LagTotals(
            totals.behind, totals.bytes, totals.messages, totals.max_bytes, lag_seconds(&totals), totals.by_bytes
        )


cdef double lag_seconds(LagTotals* totals) noexcept:
    return (coarse_ns() - totals.oldest_ns) / 1e9 if totals.oldest_ns else 0.0
