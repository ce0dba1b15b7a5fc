from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t


cdef struct Fate:
    # What became of one message, counted in subscribers; those not counted have it, or are pending.
    uint64_t seq
    uint32_t subscribers        # when it was published
    uint32_t conflated, skipped, evicted, left
    bint has_key
    PyObject* flush             # borrowed: its owner; NULL in the newest message's
    Fate* next
    Fate* previous


cdef class Flush:
    cdef Fate fate              # a link of the channel's list, from `follow` to `leave`
    cdef object channel         # its keeper
    cdef object on_done         # called once with no argument, on the loop's thread

    cdef int follow(self, Fate* newest) except -1
    cdef int leave(self) noexcept


cdef int count_lost(Fate* fate, bint is_conflated) noexcept nogil
cdef int count_passed(Fate* newest, uint64_t first_seq, uint64_t next_seq, bint is_conflated) noexcept nogil
