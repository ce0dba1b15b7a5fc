"""What became of a message: the Fate of a channel's newest one, and of those that somebody asked for.

    newest <-> asked for <-> asked for          a list without allocation: each Fate lives in its owner
    (Fanout)    (Flush)       (Flush)

A subscriber is counted at the moment it loses the message: conflated, skipped, evicted, left. Who has not
lost it, and whose cursor is past it, has it written. So the counts add up to `subscribers`, always:
written = subscribers - conflated - skipped - evicted - left - pending.

Invariants

1. The newest message has a Fate from its publish on, so `flushed(seq)` may be asked any time before the next.
2. A Flush is in its channel's list while it lives, or until `leave`.
"""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from fastbcast.fanout._forms cimport Forms
from fastbcast.fanout._slot cimport Slot


@cython.no_gc_clear    # __dealloc__ follows the list, which its channel heads
cdef class Flush:
    """Waits until every subscriber has lost or got one message."""

    def __cinit__(self, channel not None, on_done):
        self.channel = channel
        self.on_done = on_done

    def __dealloc__(self):
        self.leave()

    cdef int follow(self, Fate* newest) except -1:
        """Begin as a copy of `newest`, and be counted with it from now on."""
        self.fate = newest[0]
        self.fate.flush = <PyObject*>self
        self.fate.previous = newest
        if newest.next != NULL:
            newest.next.previous = &self.fate
        newest.next = &self.fate
        return 0

    cdef int leave(self) noexcept:
        if self.fate.previous != NULL:
            self.fate.previous.next = self.fate.next
            if self.fate.next != NULL:
                self.fate.next.previous = self.fate.previous
            self.fate.previous = self.fate.next = NULL
        return 0


cdef int count_lost(Fate* fate, bint is_conflated) noexcept nogil:
    """One subscriber will not get the message."""
    if is_conflated and fate.has_key:
        fate.conflated += 1
    else:
        fate.skipped += 1
    return 0


cdef int count_passed(Fate* newest, uint64_t first_seq, uint64_t next_seq, bint is_conflated) noexcept nogil:
    """One subscriber will not get the messages from `first_seq` up to `next_seq`, the latter not included."""
    cdef Fate* fate = newest
    while fate != NULL:
        if first_seq <= fate.seq < next_seq:
            count_lost(fate, is_conflated)
        fate = fate.next
    return 0


cdef class Tally(Forms):
    """A roster that can tell what became of a message."""

    cdef int begin_tally(self, uint64_t seq, bint has_key) noexcept:
        """Message `seq` has been published."""
        self.newest.seq = seq
        self.newest.subscribers = self.count
        self.newest.conflated = self.newest.skipped = self.newest.evicted = self.newest.left = 0
        self.newest.has_key = has_key
        return 0

    cdef int count_leaver(self, Slot* slot, bint is_evicted) noexcept:
        """A subscriber goes, and loses what it has not got."""
        cdef Fate* fate = &self.newest
        while fate != NULL:
            self._count_loss(slot, fate, &fate.evicted if is_evicted else &fate.left)
            fate = fate.next
        return 0

    cdef int count_skipped(self, Slot* slot, uint64_t next_seq) noexcept nogil:
        """A subscriber will go on with `next_seq`, and not get what came before."""
        count_passed(&self.newest, slot.seq, next_seq, False)
        slot.details.skipped += next_seq - slot.seq
        return 0

    cdef int count_compacted(self, Slot* slot, uint64_t next_seq, uint64_t skipped) noexcept:
        """The same of one that reads from the compact log; `skipped` of those messages had no key."""
        count_passed(&self.newest, slot.seq, next_seq, True)
        slot.details.skipped += skipped
        slot.details.conflated += next_seq - slot.seq - skipped
        return 0

    def _flush(self, seq, on_done):
        """Return a Flush of message `seq` (None: the newest) that calls `on_done()` once nobody waits for it.

        ValueError if `seq` is not the newest message: ask before the next is published.
        """
        cdef Flush flush
        self.sweeper.check_thread("flushed")
        if seq is not None and seq != self.newest.seq:
            raise ValueError(
                f"{self.name}: {seq!r} is not the newest message ({self.newest.seq}): "
                "ask what becomes of a message before the next is published"
            )
        flush = Flush(self, on_done)
        flush.follow(&self.newest)
        return flush

    def _check_flushed(self):
        """Call `on_done` of those that wait for nothing."""
        self.check_flushes()

    def _finish_flush(self, Flush flush not None):
        """Stop a Flush and return its counts: written, conflated, skipped, evicted, left, pending."""
        cdef Fate* fate = &flush.fate
        cdef uint32_t pending = 0
        cdef uint32_t i
        flush.leave()
        flush.on_done = None
        for i in range(self.count):
            self._count_loss(&self.slots[i], fate, &pending)
        return (
            fate.subscribers - fate.conflated - fate.skipped - fate.evicted - fate.left - pending,
            fate.conflated, fate.skipped, fate.evicted, fate.left, pending,
        )

    cdef int _count_loss(self, Slot* slot, Fate* fate, uint32_t* counter) noexcept:
        """Count a subscriber that goes, or is asked about, in `counter`, unless it has the message or lost it before.

        The rest of it may still be in the Transport, even if the cursor has jumped since. Who joined later has
        its cursor behind the message.
        """
        if slot.seq <= fate.seq and slot.details.is_compacted and not self.compact.holds(fate.seq):
            count_lost(fate, True)
        elif self._is_waiting_for(slot, fate):
            counter[0] += 1
        return 0

    cdef bint _is_waiting_for(self, Slot* slot, Fate* fate) noexcept:
        if slot.seq <= fate.seq:
            return not slot.details.is_compacted or self.compact.holds(fate.seq)
        return slot.details.rest_seq <= fate.seq < slot.details.rest_end_seq and slot.details.rest_seq != 0

    cdef int check_flushes(self) except -1:
        """Call `on_done` of those that wait for nothing."""
        cdef Fate* fate
        cdef Flush flush
        cdef list done
        if self.newest.next == NULL:
            return 0
        done = []   # all of them first: a call may drop others, and with them links of the list
        fate = self.newest.next
        while fate != NULL:
            flush = <Flush>fate.flush
            if flush.on_done is not None and not self._is_awaited(fate):
                done.append(flush)
            fate = fate.next
        for flush in done:
            if flush.on_done is not None:
                on_done, flush.on_done = flush.on_done, None
                on_done()
        return 0

    cdef bint _is_awaited(self, Fate* fate) noexcept:
        cdef uint32_t i
        if fate.waiting < self.count and self._is_waiting_for(&self.slots[fate.waiting], fate):
            return True
        for i in range(self.count):
            if self._is_waiting_for(&self.slots[i], fate):
                fate.waiting = i
                return True
        return False
