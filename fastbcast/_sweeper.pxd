from libc.stdint cimport uint32_t, uint64_t

from fastbcast._deflate cimport Deflaters
from fastbcast._log cimport Ledger
from fastbcast._ticker cimport Ticker


cdef enum:
    ASIDE_CAPACITY = 64     # slots that one slice may set aside before Python looks at them


cdef enum Verdict:
    REFUSED = 0             # the kernel took a part of the bytes, or none
    FAILED = 1              # send(2) failed
    OVER_LIMIT = 2          # too far behind, and the policy is to evict
    COMPACTED = 3           # it reads from the compact log
    ENCRYPTED = 4           # only its Transport may write


cdef struct Aside:
    # A slot that a slice could not finish, for the code with the GIL.
    uint32_t index
    Verdict verdict
    int error               # errno, where the verdict is FAILED


cdef class Counters:
    # Sums over all channels of a hub.
    cdef readonly uint64_t published_messages, published_bytes
    cdef readonly uint64_t delivered_messages, sent_bytes, sends, refused_sends, failed_sends
    cdef readonly uint64_t skipped_messages, conflated_messages, jumps
    cdef readonly uint64_t sweeps, slices, inline_sweeps, reliefs
    # How long rounds take: that is the time from a message's first subscriber to its last.
    cdef readonly uint64_t rounds, round_ns, max_round_ns

    cdef int add_round(self, uint64_t ns) noexcept


cdef class Sweepable:
    # What the sweeper knows of a channel.
    cdef object __weakref__
    cdef readonly str name
    cdef double coalesce_seconds        # set once
    cdef bint is_dirty                  # it is in the sweeper's queue
    cdef object timer                   # that will put it there, or None

    cdef bint sweep(self, uint64_t deadline_ns, bint is_turn_end) except -1


cdef class Sweeper:
    cdef object loop
    cdef object dirty                   # deque of Sweepables, each at most once (is_dirty)
    cdef unsigned long thread_ident     # of the loop; 0 until `bind`
    cdef readonly Counters counters
    cdef readonly Ledger ledger         # of all logs
    cdef readonly Deflaters deflaters   # of all channels
    cdef readonly uint64_t slice_ns
    cdef Ticker ticker                  # the clock of limits: see watch.py
    # Bounds over all channels, and who is called to free memory at them.
    cdef Py_ssize_t max_log_bytes, max_pinned_bytes
    cdef object on_log_full, on_pinned_full
    cdef bint is_relieving_logs, is_relieving_pinned
    cdef bint is_scheduled
    cdef bint is_sweeping               # guards against re-entry
    cdef uint64_t turn_deadline_ns      # 0: not asked for in this turn of the loop
    # Set aside by the slice that runs, settled before anything else may run.
    cdef Aside[ASIDE_CAPACITY] asides
    cdef uint32_t aside_count

    cdef int check_thread(self, str what) except -1
    cdef int mark_dirty(self, Sweepable channel) except -1
    cdef int schedule(self) except -1
    cdef int relieve_logs(self) except -1
    cdef int relieve_pinned(self) except -1
    cdef int mark_dirty_later(self, Sweepable channel, double seconds) except -1
    cdef int forget(self, Sweepable channel) except -1
    cdef bint attempt(self, Sweepable channel, uint64_t deadline_ns, bint is_turn_end) except -1
    cdef int report(self, str event, str channel, object error) except -1
    cdef uint64_t turn_deadline(self) except 0
    cdef int _enqueue(self, Sweepable channel) except -1
