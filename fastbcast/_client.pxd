from libc.stdint cimport uint64_t
from picows.picows cimport WSFrame, WSListener, WSTransport

from fastbcast._fanout cimport Occasion
from fastbcast._wire cimport Wire


cdef class Client(WSListener):
    # Set once, at the handshake.
    cdef Wire wire
    cdef object hub                     # who is told what happens: see hub.py
    cdef readonly object server         # told when the client is gone
    cdef readonly str channel           # that the request path named
    cdef public object identity         # what the authorize hook returned
    cdef public object rights           # the Grant that the authorize hook returned; None: everything is allowed
    cdef public str subprotocol         # that the handshake has settled on, or None
    cdef public object forwarded_address    # that a trusted proxy has named, or None
    # picows' side of the connection, between on_ws_connected and on_ws_disconnected.
    cdef WSTransport parser
    cdef readonly bint is_upgraded      # the 101 has been written
    # The application's.
    cdef object _state                  # dict, made when first asked for
    cdef public object _inbox           # handlers.Inbox while an async handler is at work
    # Channels: name -> Subscription; None while there are none.
    cdef dict subscriptions
    cdef Py_ssize_t first_served        # which of them comes first when the socket has room again
    cdef uint64_t skipped, conflated    # of the channels it was in when it left all of them
    # A message that arrives in fragments (RFC 6455 section 5.4); opcode 0: none.
    cdef bytearray fragments
    cdef int fragments_opcode
    cdef int fragment_count
    # The end.
    cdef readonly object disconnected   # a Disconnect, as soon as it is known why
    cdef object close_timer
    cdef object _last_address           # of a connection that is gone
    # Reading: paused by the inbox; and how much of it is fair.
    cdef bint is_reading_paused
    cdef readonly Py_ssize_t _read_limit
    cdef Py_ssize_t frames_in_read

    cdef int _leave_all(self, bint is_evicted) except -1
    cdef int _catch_up_all(self, Occasion occasion) except -1
    cdef int _begin_close(self, object code, str reason, str cause) except -1
    cdef int _receive_frame(self, WSFrame frame) except -1
    cdef int _abort(self, str reason, str by, str cause) except -1
    cdef int _receive_data(self, int opcode, bytes payload) except -1
    cdef int _receive_close(self, bytes payload) except -1
