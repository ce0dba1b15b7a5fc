from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from fastbcast.fanout._forms cimport Forms
from fastbcast.fanout._slot cimport Slot


cdef struct Fate:
    # What became of one message, counted in subscribers; those not counted have it, or are pending.
    uint64_t seq
    uint32_t subscribers        # when it was published
    uint32_t conflated, skipped, evicted, left
    bint has_key
    uint32_t waiting            # index of a slot that waited for it when last asked: likely still does
    PyObject* flush             # borrowed: its owner; NULL in the newest message's
    Fate* next
    Fate* previous


cdef class Flush:
    cdef Fate fate              # a link of the channel's list, from `follow` to `leave`
    cdef object channel         # its keeper
    cdef object on_done         # called once with no argument, on the loop's thread

    cdef int follow(self, Fate* newest) except -1
    cdef int leave(self) noexcept


cdef class Tally(Forms):
    cdef Fate newest            # heads the list of those asked for

    cdef int begin_tally(self, uint64_t seq, bint has_key) noexcept
    cdef int count_leaver(self, Slot* slot, bint is_evicted) noexcept
    cdef int count_skipped(self, Slot* slot, uint64_t next_seq) noexcept nogil
    cdef int count_compacted(self, Slot* slot, uint64_t next_seq, uint64_t skipped) noexcept
    cdef int check_flushes(self) except -1
    cdef int _count_loss(self, Slot* slot, Fate* fate, uint32_t* counter) noexcept
    cdef bint _is_waiting_for(self, Slot* slot, Fate* fate) noexcept
    cdef bint _is_awaited(self, Fate* fate) noexcept
