from libc.stdint cimport uint64_t

from fastbcast._ticker cimport Ticker
from fastbcast.deflate._deflate cimport Deflaters
from fastbcast.log._log cimport Ledger


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
    cdef Ticker ticker                  # the clock of limits: see paused.py
    # Bounds over all channels, and who is called to free memory at them.
    cdef Py_ssize_t max_log_bytes, max_pinned_bytes
    cdef object on_log_full, on_pinned_full
    cdef bint is_relieving_logs, is_relieving_pinned
    cdef bint is_scheduled
    cdef bint is_sweeping               # guards against re-entry
    cdef uint64_t turn_deadline_ns      # 0: not asked for in this turn of the loop

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
