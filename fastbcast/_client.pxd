from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastbcast._fanout cimport Occasion
from fastbcast._parser cimport Parser, ReadBuffer
from fastbcast._wire cimport Wire


cdef class _Base:
    pass


cdef class Client(_Base):
    # Set once, at the handshake.
    cdef Wire wire
    cdef object hub                     # who is told what happens: see hub.py
    cdef readonly object server         # told when the client is gone
    cdef readonly str channel           # that the request path named
    cdef public object identity         # what the authorize hook returned
    cdef public object rights           # the Grant that the authorize hook returned; None: everything is allowed
    cdef public str subprotocol         # that the handshake has settled on, or None
    cdef readonly object deflate        # what was negotiated of permessage-deflate, or None
    cdef public object forwarded_address    # that a trusted proxy has named, or None
    # Reading.
    cdef Parser parser
    cdef ReadBuffer read_buffer         # of the hub
    cdef bint is_reading_paused         # by the inbox or the rate: what was read already waits in the parser
    cdef bint may_read_much             # the last read brought few frames: see get_buffer
    cdef bint is_expansive              # a read became very much when it was inflated: the next ones are small
    cdef Py_ssize_t partial_bytes       # of an unfinished message, as the hub knows of it: see partials.py
    # Keepalive.
    cdef uint64_t received_ns           # when something was last received, by the coarse clock
    cdef uint64_t pinged_ns             # when it was last pinged; 0: not since something was received
    cdef public object _bucket          # of the wheel it is in: see keepalive.py
    # The application's.
    cdef object _state                  # dict, made when first asked for
    cdef public object _inbox           # handlers.Inbox while an async handler is at work
    # Channels: name -> Subscription; None while there are none.
    cdef dict subscriptions
    cdef Py_ssize_t first_served        # which of them comes first when the socket has room again
    cdef uint64_t skipped, conflated    # of the channels it was in when it left all of them
    # The end.
    cdef readonly object disconnected   # a Disconnect, as soon as it is known why
    cdef object close_timer
    cdef object _last_address           # of a connection that is gone

    cdef int _reconsider_forms(self, uint32_t sharable) except -1
    cdef int _leave_all(self, bint is_evicted) except -1
    cdef int _catch_up_all(self, Occasion occasion) except -1
    cdef int _begin_close(self, object code, str reason, str cause) except -1
    cdef int _abort(self, str reason, str by, str cause) except -1
    cdef int _receive(self, uint8_t* data, Py_ssize_t size) except -1
    cdef int _count_partial(self, Py_ssize_t size) except -1
    cdef int _receive_close(self) except -1
    cdef int _fail_connection(self) except -1
