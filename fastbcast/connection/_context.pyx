"""What all clients of a hub share: limits, buffers, and whom they tell what has happened.

    Hub --makes--> Context <--reads-- Client, Subscriber (one pointer each)
                      `-- on_connected, on_message, on_disconnected --> Hub

A Client knows this and nothing above it, so whatever accepts a connection can make one: `serve()`, or another server.

Invariants

1. One hub has one Context, and its clients belong to the thread of that hub's Sweeper.
2. A callback may run user code. It is called where the client is at a frame boundary and in a state that its methods may
   change: behind the 101, between two events of the Parser, and at the end of `connection_lost`.
"""

from fastbcast.connection._parser cimport ReadBuffer
from fastbcast.deflate._inflate cimport Inflater, Scratch
from fastbcast.fanout._sweeper cimport Sweeper

from fastbcast.exceptions import TooManySubscriptions


cdef class Context:
    """The shared half of all clients of one hub; made by the hub."""

    def __cinit__(
        self, options not None, Sweeper sweeper not None, *, ReadBuffer read_buffer not None, partials, paused, closing,
        on_connected, on_message, on_disconnected, find_channel, on_refused
    ):
        self.sweeper = sweeper
        self.max_message_bytes = options.max_message_bytes
        self.max_fragments = options.max_fragments
        self.max_direct_bytes = options.max_direct_bytes
        self.max_subscriptions = options.max_subscriptions
        self.read_buffer = read_buffer
        self.inflater = Inflater(Scratch(), False)
        self.partials = partials
        self.paused = paused
        self.closing = closing
        self.on_connected = on_connected
        self.on_message = on_message
        self.on_disconnected = on_disconnected
        self.find_channel = find_channel
        self.on_refused = on_refused

    def bind(self, loop not None):
        """Belong to `loop`, which is running."""
        self.loop = loop

    cdef int check_subscriptions(self, str channel, Py_ssize_t count) except -1:
        """Raise TooManySubscriptions if a client that has `count` subscriptions may not have one more."""
        if count >= self.max_subscriptions:
            self.on_refused("max_subscriptions")
            raise TooManySubscriptions(channel, self.max_subscriptions)
        return 0
