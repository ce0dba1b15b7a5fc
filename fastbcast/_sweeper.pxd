from libc.stdint cimport uint32_t, uint64_t


cdef extern from *:
    """
    #include <time.h>
    static inline unsigned long long fastbcast_now_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (unsigned long long)now.tv_sec * 1000000000ull + (unsigned long long)now.tv_nsec;
    }
    """
    uint64_t now_ns "fastbcast_now_ns" () noexcept nogil


cdef enum:
    ASIDE_CAPACITY = 64     # slots that one slice may set aside before Python looks at them


cdef enum Verdict:
    REFUSED = 0             # the kernel took a part of the bytes, or none
    FAILED = 1              # send(2) failed
    OVER_LIMIT = 2          # too far behind


cdef struct Aside:
    # A slot that a slice could not finish, for the code with the GIL.
    uint32_t index
    Verdict verdict
    int error               # errno, where the verdict is FAILED


cdef class Counters:
    # Sums over all channels of a hub.
    cdef readonly uint64_t published_messages, published_bytes
    cdef readonly uint64_t delivered_messages, sent_bytes, sends, refused_sends, failed_sends
    cdef readonly uint64_t sweeps, slices, inline_sweeps


cdef class Sweepable:
    # What the sweeper knows of a channel.
    cdef object __weakref__
    cdef readonly str name
    cdef double coalesce_seconds        # set once
    cdef bint is_dirty                  # it is in the sweeper's queue, or a timer will put it there

    cdef bint sweep(self, uint64_t deadline_ns, bint is_turn_end) except -1


cdef class Sweeper:
    cdef object loop
    cdef object dirty                   # deque of Sweepables, each at most once (is_dirty)
    cdef unsigned long thread_ident     # of the loop; 0 until `bind`
    cdef readonly Counters counters
    cdef readonly uint64_t slice_ns
    cdef bint is_scheduled
    cdef bint is_sweeping               # guards against re-entry
    # Set aside by the slice that runs, settled before anything else may run.
    cdef Aside[ASIDE_CAPACITY] asides
    cdef uint32_t aside_count

    cdef int check_thread(self, str what) except -1
    cdef int mark_dirty(self, Sweepable channel) except -1
    cdef int schedule(self) except -1
