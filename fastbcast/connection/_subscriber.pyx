"""A client as its channels see it: where it is subscribed, how far behind it is there, and what it missed.

    subscriptions    name -> Subscription --> a slot in that channel (Fanout)
                                                   `--> the Wire, one for all of them

Invariants

1. A name is in `subscriptions` if and only if the client has a slot in the channel of that name.
2. Of several channels that have something for it, the one that filled its socket comes last the next time.
3. In which form it is sent messages depends on whether it could follow the windows of no channel, of one, or of more
   (see _forms.pyx): when that changes, all its channels are asked anew.
4. What a channel counted as missed is not forgotten when the client ends.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from fastbcast.connection._context cimport Context
from fastbcast.fanout._fanout cimport ON_RESUME, Fanout, Occasion
from fastbcast.fanout._roster cimport LagTotals, Subscription, lag_seconds
from fastbcast.fanout._slot cimport CLOSED, WRITABLE
from fastbcast.fanout._wire cimport Wire

from fastbcast.typing import Lag, Missed


cdef class Subscriber:
    """What a client is to the channels of its hub."""

    def __cinit__(self, Context context not None, transport, int fd, str channel, *rest):
        self.context = context
        self.channel = channel
        self.wire = Wire(self, transport, fd, context.max_direct_bytes)

    @property
    def channels(self):
        """The names of the channels this client is subscribed to (tuple of str)."""
        return () if self.subscriptions is None else tuple(self.subscriptions)

    @property
    def is_open(self):
        """Whether messages can still be sent: no CLOSE was sent or received, and the connection is there."""
        return self.disconnected is None and self.wire.socket.state != CLOSED

    @property
    def lag(self):
        """How far behind the client is, over all its channels: Lag(bytes, messages, seconds)."""
        cdef LagTotals totals
        cdef Subscription subscription
        self.context.sweeper.check_thread("client.lag")
        memset(&totals, 0, sizeof(LagTotals))
        if self.subscriptions is not None:
            for subscription in self.subscriptions.values():
                subscription.channel.add_lag(&subscription.channel.slots[subscription.index], &totals)
        return Lag(totals.bytes + self.wire.waiting_bytes(), totals.messages, lag_seconds(&totals))

    @property
    def missed(self):
        """Messages of its channels that it will not get: Missed(skipped, conflated), since it subscribed.

        Of a client that is gone: of the channels it was in at the end.
        """
        cdef Subscription subscription
        cdef uint64_t skipped = self.skipped
        cdef uint64_t conflated = self.conflated
        if self.subscriptions is not None:
            for subscription in self.subscriptions.values():
                skipped += subscription.details.skipped
                conflated += subscription.details.conflated
        return Missed(skipped, conflated)

    def subscribe(self, str channel):
        """Receive what is published to `channel` from now on, whether or not the client itself may ask for it.

        Does nothing if it is subscribed already. Returns whether the client is subscribed now: False if it is already
        on its way out. Raises TooManySubscriptions, TooManyChannels, InvalidChannelName, and WrongThread.
        """
        cdef Fanout fanout
        cdef uint32_t sharable
        self.context.sweeper.check_thread("client.subscribe")
        if not self.is_open:
            return False
        if self.subscriptions is None:
            self.subscriptions = {}
        if channel not in self.subscriptions:
            self.context.check_subscriptions(channel, len(self.subscriptions))
            fanout = self.context.find_channel(channel)
            sharable = self.wire.socket.sharable
            self.subscriptions[fanout.name] = fanout.subscribe(self.wire)
            self._reconsider_forms(sharable)
            if fanout.name == self.channel:
                self.channel = fanout.name  # one str for all of a channel's clients
        return True

    def unsubscribe(self, str channel):
        """Receive nothing more of `channel`; returns whether it was subscribed."""
        cdef Subscription subscription
        cdef uint32_t sharable = self.wire.socket.sharable
        self.context.sweeper.check_thread("client.unsubscribe")
        if self.subscriptions is None or channel not in self.subscriptions:
            return False
        subscription = self.subscriptions.pop(channel)
        (<Fanout>subscription.channel).unsubscribe(subscription, False)
        self._reconsider_forms(sharable)
        return True

    cdef int _reconsider_forms(self, uint32_t sharable) except -1:
        """Some of its channels may have to send in another form: `sharable` of them had a window for it before."""
        cdef Subscription subscription
        if sharable == self.wire.socket.sharable or min(sharable, self.wire.socket.sharable) > 1:
            return 0
        for _ in range(2):  # who leaves a window, then who waited for that
            for subscription in self.subscriptions.values():
                (<Fanout>subscription.channel).reconsider(subscription)
        return 0

    # What the client asks for.

    cdef int leave_all(self, bint is_evicted) except -1:
        """Take its slots out of all its channels, for good: a CLOSE follows, or the connection is gone."""
        cdef Subscription subscription
        while self.subscriptions:   # one that raises does not keep those behind it for ever
            subscription = self.subscriptions.popitem()[1]
            self.skipped += subscription.details.skipped
            self.conflated += subscription.details.conflated
            (<Fanout>subscription.channel).unsubscribe(subscription, is_evicted)
        self.subscriptions = None
        return 0

    cdef int catch_up_all(self, Occasion occasion) except -1:
        """Send what its channels have for it; the one that fills the socket comes last the next time."""
        cdef tuple subscriptions
        cdef Subscription subscription
        cdef bint was_writable
        cdef Py_ssize_t first = self.first_served
        cdef Py_ssize_t i
        if self.subscriptions is None:
            return 0
        subscriptions = tuple(self.subscriptions.values())
        for i in range(first, first + len(subscriptions)):
            subscription = subscriptions[i % len(subscriptions)]
            was_writable = self.wire.socket.state == WRITABLE
            (<Fanout>subscription.channel).catch_up(subscription, occasion)
            if was_writable and self.wire.socket.state != WRITABLE:
                self.first_served = (i + 1) % len(subscriptions)
        return 0

    cdef int resume_all(self) except -1:
        """The Transport has written what it held: its channels go on."""
        cdef Subscription subscription
        if self.subscriptions is None:
            return 0
        for subscription in tuple(self.subscriptions.values()):
            if subscription.details.rest_seq:
                (<Fanout>subscription.channel).resume(subscription)
        return self.catch_up_all(ON_RESUME)

    def _channels_behind(self):
        """The channels that have messages for this client which it was not sent."""
        cdef Subscription subscription
        if self.subscriptions is None:
            return []
        return [
            subscription.channel for subscription in self.subscriptions.values()
            if subscription.channel.is_behind(subscription)
        ]
