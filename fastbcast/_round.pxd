from libc.stdint cimport uint32_t, uint64_t

from fastbcast._delivery cimport Delivery
from fastbcast._slot cimport Slice, Slot


cdef class Round(Delivery):
    # The round: see the module's docstring.
    cdef uint32_t position, remaining
    cdef uint64_t appended              # bytes of all messages so far, as plain frames
    cdef uint64_t offered               # every slot has been offered what those are before this
    cdef uint64_t round_end             # `appended` when the round began
    cdef bint has_leftover              # a backlog took more than one send
    cdef uint64_t round_began_ns
    cdef uint32_t random
    cdef uint64_t next_release_ns       # with a limit of the rate: when the next round may begin

    cdef bint _begin_round(self) except -1
    cdef int _end_round(self) except -1
    cdef int run_slice(self, Slice* part) noexcept nogil
    cdef int settle(self, Slice* part, uint64_t deadline_ns) except -1
    cdef int _read_compacted(self, Slot* slot) noexcept
    cdef int _jump(self, Slot* slot, uint64_t limit) noexcept
    cdef int trim(self) except -1
