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
from libc.stdint cimport uint64_t


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
