from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from fastbcast._log cimport Form, Lane
from fastbcast._wire cimport Socket


cdef enum PolicyKind:
    EVICT = 0           # close 1013
    SKIP = 1            # jump to the oldest message within the limit
    LATEST = 2          # jump to the newest message
    CONFLATE = 3        # read from the compact log as soon as it is behind


cdef struct Place:
    # What is known of one subscriber beside its Slot: touched only when it is, or was, behind.
    uint64_t judged_from        # lag counts from here: the end of the burst in which it fell behind
    uint64_t soft_since_ns      # over the soft limit since then; 0: it is not
    uint64_t rest_seq           # the message whose rest the Transport holds; 0: it holds none
    uint64_t rest_end_seq       # and those behind it up to this one, which is not included (more than one: under TLS)
    uint64_t rest_ns            # when the first of them was published
    uint64_t skipped            # messages it did not get because it was too far behind
    uint64_t conflated          # messages it did not get because a newer one of the same key came first
    uint64_t keyless            # while is_compacted: messages without a key before slot.seq
    bint is_compacted           # it reads from the compact log, and does not hold back the log
    Form wanted                 # of the lane where it should be: see _forms.pyx
    PyObject* subscription      # an owned reference, so that no slot outlives its client


cdef struct Slot:
    # One subscriber, as a sweep sees it.
    Lane* lane                  # of its channel
    uint64_t cursor             # in the lane: offset of the next byte to send; a frame boundary while Python has control
    uint64_t seq                # of the message that starts there
    Socket* socket              # its client's, shared by all of the client's slots
    Place* place                # inside its Subscription


cdef extern from *:
    """
    #define FASTBCAST_NEVER UINT64_MAX
    """
    const uint64_t KEEPING_UP "FASTBCAST_NEVER"         # judged_from of a subscriber that is not behind
    const uint64_t WITHIN_LIMITS "FASTBCAST_NEVER"      # what `judge` says of one that may stay as it is


cdef class Policy:
    # Set once; channels with the same options share it.
    cdef readonly PolicyKind kind
    cdef readonly uint64_t max_message_bytes
    cdef readonly uint64_t max_lag_bytes, max_burst_bytes, max_unswept_bytes, soft_lag_bytes, soft_lag_ns
    cdef readonly Py_ssize_t max_keys, max_snapshot_bytes
    # A release lets each subscriber have so many messages, every so often; 0: no limit of the rate.
    cdef readonly uint64_t messages_per_release, release_ns
    cdef readonly double coalesce_seconds
    # The most that is done for subscribers that have negotiated permessage-deflate; alone: DEFLATED.
    cdef readonly Form best_form
    cdef readonly int compression_level, window_bits
    cdef readonly Py_ssize_t compress_min_bytes
    cdef readonly uint64_t reset_messages

    cdef uint64_t judge(self, Slot* slot, uint64_t now, bint is_turn_end) noexcept nogil
