# What a sweep reads of one subscriber: plain C, so that no Python object is touched without the GIL.
#
#   slots:  [ lane* cursor seq socket* details* ][ ... ][ ... ]     dense, 40 bytes each (Roster, _roster.pyx)
#              |                  |       `--> SlotDetails, in the Subscription: limits, rest, counts
#              |                  `--> Socket, in the client's Wire: shared by all slots of the client
#              `--> Lane, in one of the channel's Logs: see _forms.pyx
#
# All of it is written by the loop's thread. While a slice of a sweep runs, that slice alone writes, and only its Slice,
# the slots that it visits, and their details: what has to change anything else is set aside.

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from fastbcast.log._log cimport Form, Lane


cdef enum SocketState:
    WRITABLE = 0        # the sweep may send
    PAUSED = 1          # the kernel refused; the Transport holds what it did not take (`writing_paused`)
    CLOSED = 2          # a CLOSE was written, or the connection is gone: nothing may follow


cdef struct Socket:
    # The socket of one client. A slice only reads it.
    int fd              # -1: only the Transport may write (TLS), or the connection is gone
    int state
    # permessage-deflate: what the client's inflater can do, and what it is given; kept by _forms.pyx.
    int window_bits             # 0: it was not negotiated
    bint may_follow_window      # it keeps its context between messages, and the server has windows
    uint32_t sharable           # channels of the client that have a window which it could follow
    uint32_t windowed           # slots of the client on such a window: at most one,
    uint32_t deflated           # and then none of those that get each message compressed alone


cdef struct SlotDetails:
    # The cold half of a Slot: read and written only for a subscriber that is, or was, behind.
    uint64_t judged_from        # lag counts from this offset: the end of the burst in which the subscriber fell behind
    uint64_t soft_since_ns      # over the soft limit since then; 0: it is not
    uint64_t rest_seq           # the message whose rest the Transport holds; 0: it holds none
    uint64_t rest_end_seq       # the Transport holds the messages before this one (more than one: without a descriptor)
    uint64_t rest_ns            # when the first of them was published
    uint64_t skipped            # messages it did not get because it was too far behind
    uint64_t conflated          # messages it did not get because a newer one of the same key came first
    uint64_t keyless            # while is_compacted: messages without a key before slot.seq
    bint is_compacted           # the subscriber reads from the compact log, and does not hold back the log
    Form wanted                 # the form of the lane where the slot should be: see _forms.pyx
    PyObject* subscription      # an owned reference, so that no slot outlives its client


cdef struct Slot:
    # The hot half: one subscriber, as a sweep sees it.
    Lane* lane                  # of the slot's channel
    uint64_t cursor             # lane offset of the next byte to send; a frame boundary while Python has control
    uint64_t seq                # of the message that starts there
    Socket* socket              # of the subscriber's client
    SlotDetails* details        # inside the subscriber's Subscription


cdef extern from *:
    """
    #define FASTBCAST_NEVER UINT64_MAX
    """
    const uint64_t KEEPING_UP "FASTBCAST_NEVER"         # judged_from of a subscriber that is not behind


cdef enum:
    ASIDE_CAPACITY = 64         # slots that one slice may set aside before the code with the GIL settles them


cdef enum Verdict:
    # Why a slice set a slot aside.
    REFUSED = 0             # the kernel took a part of the bytes, or none
    FAILED = 1              # send(2) failed; `detail` is errno
    OVER_LIMIT = 2          # the subscriber is too far behind; `detail` is the limit that it passed, in bytes
    COMPACTED = 3           # the subscriber reads from the compact log
    FELL_BEHIND = 4         # on a conflating channel: the subscriber reads from the compact log from now on
    TRANSPORT_ONLY = 5      # there is no descriptor: only the Transport may write


cdef struct Aside:
    # A slot that a slice could not finish, for the code with the GIL.
    uint32_t index
    Verdict verdict
    uint64_t detail


cdef struct Slice:
    # One slice of a round: the visits that are made in one go without the GIL, and what came of them.
    # Set by the caller; the slice moves `position` on and counts `remaining` down.
    uint32_t position           # index of the slot that is visited next
    uint32_t remaining          # visits until the slice has nothing to do any more
    uint64_t deadline_ns        # on the clock of now_ns()
    bint is_turn_end            # limits are judged in full: see Policy.judge
    # What the visits found, in sum.
    bint has_leftover           # a backlog took more than one send
    uint64_t delivered_messages, sent_bytes, sends
    # Slots to settle before anything else may run.
    uint32_t aside_count
    Aside[ASIDE_CAPACITY] asides
