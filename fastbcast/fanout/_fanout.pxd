from libc.stdint cimport uint64_t

from fastbcast.fanout._roster cimport Subscription
from fastbcast.fanout._round cimport Round
from fastbcast.fanout._wire cimport Wire


cdef enum Occasion:
    # Why a subscriber is sent what it lacks before its turn.
    ON_RESUME = 0           # its socket is writable again
    BEFORE_DIRECT = 1       # a direct frame follows
    BEFORE_CLOSE = 2        # a CLOSE follows: what is not sent now never is


cdef class Fanout(Round):
    cdef uint64_t _appended(self, uint64_t seq, uint64_t frame_bytes, bint has_key) except 0
    cdef Subscription subscribe(self, Wire wire)
    cdef int unsubscribe(self, Subscription subscription, bint is_evicted) except -1
    cdef int catch_up(self, Subscription subscription, Occasion occasion) except -1
    cdef int resume(self, Subscription subscription) except -1

    cdef int _sweep_now(self) except -1
