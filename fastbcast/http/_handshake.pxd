from fastbcast.http._request_head cimport RequestHead, HeadParser


cdef class _Base:
    pass


cdef class Handshake(_Base):
    cdef object server, transport
    cdef object accepted            # the socket
    cdef object address             # as `socket.getpeername()` gives it, or as a trusted proxy says
    cdef bint is_proxied            # a trusted proxy will say
    cdef bint is_counted            # among the connections,
    cdef str counted_as             # and under this name of its address
    cdef object queue               # the Deadlines in which it waits, one of the three of PendingHandshakes
    cdef bytes data                 # what was received and not looked at
    cdef HeadParser parser          # of the head, until it is there
    cdef RequestHead head           # None: nothing of it has come yet
    cdef tuple refusal              # decided already, told when the request is there
    cdef bint is_handshake          # it asks for the upgrade to WebSocket; else:
    cdef object route               # what answers it: see routes.py
    cdef bint is_half_closed        # the peer will send nothing more, and waits for its answer
    cdef object task                # the authorize hook at work
    cdef Py_ssize_t lingered_bytes

    cdef int receive_head(self) except -1
    cdef object read_request(self)
    cdef int authorize(self, object request) except -1
    cdef int tell_failure(self, object error) except -1
    cdef int admit(self, object request, object granted) except -1
    cdef int upgrade(self, str channel, object granted) except -1
    cdef object negotiate_deflate(self)
    cdef int reject(self, object error) except -1
    cdef bint has_hurried(self) except -1
    cdef int refuse_hurry(self) except -1
    cdef tuple find_address(self)
    cdef tuple count_address(self, bint is_forwarded)
    cdef int stop_counting(self) except -1
    cdef int refuse(self, str cause, object status, object reason=*, object headers=*) except -1
    cdef int refuse_malformed(self) except -1
    cdef int refuse_as_decided(self) except -1
    cdef int answer(self, object status, str body=*, object headers=*) except -1
    cdef int respond(self, object response) except -1
    cdef int wait_in(self, object queue) except -1
    cdef int leave_queue(self) except -1
