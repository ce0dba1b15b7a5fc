from libc.stdint cimport uint8_t, uint64_t

from fastbcast.connection._parser cimport Parser, ReadBuffer
from fastbcast.connection._subscriber cimport Subscriber


cdef class Client(Subscriber):
    # Set once, at the handshake.
    cdef readonly object _on_gone       # called with the client when its connection is gone: whatever accepted it counts
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
    cdef double pinged_at               # the same by the clock of keepalive.py, in seconds
    cdef public object _bucket          # of the wheel it is in: see keepalive.py
    # The application's.
    cdef object _state                  # dict, made when first asked for
    cdef public object _inbox           # handlers.Inbox while an async handler is at work
    # The end.
    cdef object _last_address           # of a connection that is gone

    cdef int _begin_close(self, object code, str reason, str cause) except -1
    cdef int _abort(self, str reason, str by, str cause) except -1
    cdef int _receive(self, uint8_t* data, Py_ssize_t size) except -1
    cdef int _count_partial(self, Py_ssize_t size) except -1
    cdef int _receive_close(self) except -1
    cdef int _fail_connection(self) except -1
