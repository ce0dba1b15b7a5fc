from libc.stdint cimport uint64_t

from fastbcast.connection._parser cimport ReadBuffer
from fastbcast.deflate._inflate cimport Inflater
from fastbcast.fanout._sweeper cimport Sweeper


cdef class Context:
    # Set once.
    cdef Sweeper sweeper                # whose thread all clients belong to
    cdef readonly Py_ssize_t max_message_bytes, max_fragments, max_direct_bytes, max_subscriptions
    # Shared by all clients, since each uses them up before the next one is read from.
    cdef readonly ReadBuffer read_buffer
    cdef readonly Inflater inflater     # of clients that compress each message alone
    # Collections that clients enter and leave by themselves.
    cdef readonly object partials       # Partials: unfinished messages
    cdef readonly object paused         # PausedClients: clients whose sockets are full
    cdef readonly object closing        # Deadlines: clients whose CLOSE has to be answered
    # Called with a client: what they do is the hub's.
    cdef object on_connected            # and the names of the channels to subscribe it to
    cdef object on_message              # and a whole message
    cdef object on_disconnected
    cdef object find_channel            # by its name, made if there is none
    cdef object on_refused              # called with the name of the limit that refused something
    # Set by `bind`.
    cdef readonly object loop
    # Counted by the clients.
    cdef readonly uint64_t pings

    cdef int check_subscriptions(self, str channel, Py_ssize_t count) except -1
