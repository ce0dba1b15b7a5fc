from libc.stdint cimport uint32_t, uint64_t

from fastbcast.connection._context cimport Context
from fastbcast.fanout._fanout cimport Occasion
from fastbcast.fanout._wire cimport Wire


cdef class Subscriber:
    # Set once.
    cdef Wire wire
    cdef Context context                # what all clients of its hub share
    cdef readonly str channel           # that the request path named
    # Channels: name -> Subscription; None while there are none.
    cdef dict subscriptions
    cdef Py_ssize_t first_served        # which of them comes first when the socket has room again
    cdef uint64_t skipped, conflated    # of the channels it was in when it left all of them
    cdef readonly object disconnected   # a Disconnect, as soon as it is known why it ends

    cdef int leave_all(self, bint is_evicted) except -1
    cdef int catch_up_all(self, Occasion occasion) except -1
    cdef int resume_all(self) except -1
    cdef int _reconsider_forms(self, uint32_t sharable) except -1
