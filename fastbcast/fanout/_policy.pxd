from libc.stdint cimport uint64_t

from fastbcast.deflate._deflate cimport Compression
from fastbcast.fanout._slot cimport Slot
from fastbcast.log._log cimport Form


cdef enum PolicyKind:
    EVICT = 0           # close 1013
    SKIP = 1            # jump to the oldest message within the limit
    LATEST = 2          # jump to the newest message
    CONFLATE = 3        # read from the compact log as soon as it is behind


cdef extern from *:
    """
    #define FASTBCAST_WITHIN_LIMITS UINT64_MAX
    """
    const uint64_t WITHIN_LIMITS "FASTBCAST_WITHIN_LIMITS"  # `judge` returns it for a subscriber that may stay as it is


cdef class Policy:
    # Set once; channels with the same options share it.
    cdef readonly PolicyKind kind
    # What `kind` means, as the code asks for it.
    cdef bint closes           # a subscriber over its limit is closed
    cdef bint jumps_to_newest  # its cursor jumps to the newest message, not to the oldest within the limit
    cdef bint reads_compact    # a subscriber that is behind reads from the compact log
    cdef bint keeps_plain      # the plain lane is kept for subscribers of any form, so that they can go on there
    cdef readonly uint64_t max_message_bytes
    cdef readonly uint64_t max_lag_bytes, max_burst_bytes, max_unswept_bytes, soft_lag_bytes, soft_lag_ns
    cdef readonly Py_ssize_t max_keys, max_snapshot_bytes
    # A release lets each subscriber have so many messages, every so often; 0: no limit of the rate.
    cdef readonly uint64_t messages_per_release, release_ns
    cdef readonly double coalesce_seconds
    # The most that is done for subscribers that have negotiated permessage-deflate; alone: DEFLATED.
    cdef readonly Form best_form
    cdef Compression compression

    cdef uint64_t judge(self, Slot* slot, uint64_t now, bint is_turn_end) noexcept nogil
