"""Hub: the fan-out component, without any server.

    hub.publish(channel, message) -> Channel (a Fanout: log + subscribers) -> Sweeper, at the end of the turn

Invariants

1. A channel lives as long as somebody needs it: a subscriber, bytes not yet swept, or the application
   that keeps what `hub.channel()` returned. Then it is forgotten, and with it its seq.
2. All methods but `publish_threadsafe` belong to the loop's thread, and are not for signal handlers and `__del__`.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from ._frames import CloseCode, encode
from ._publish_queue import PublishQueue
from .channel import Asked, Channel
from .channel_names import ChannelNames
from .connection._context import Context
from .connection._parser import ReadBuffer
from .connection.handlers import Handlers
from .connection.partials import Partials
from .connection.paused import PausedClients
from .deadlines import Deadlines
from .exceptions import InvalidChannelName, TooManyChannels
from .fanout._policy import Policy
from .fanout._roster import LAG_BOUNDS
from .fanout._sweeper import Sweeper
from .log._compact import measure_key
from .logging import log_event
from .options import COMPRESSIONS, ChannelOptions, HubOptions
from .typing import AuthorizeHook, Flushed

if TYPE_CHECKING:
    from .connection._client import Client
    from .log._log import Segment
    from .typing import Key, Message

__all__ = ["Hub"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Hub:
    """Channels and their clients.

    Make one anywhere; it belongs to the event loop whose thread first serves it.
    """

    def __init__(self, **options: Any) -> None:
        self.options = HubOptions(**options)
        self._channel_options: list[tuple[str, dict[str, Any]]] = []
        self._policies: dict[ChannelOptions, Policy] = {}
        self._channels: WeakValueDictionary[str, Channel] = WeakValueDictionary()
        self._clients: set[Client] = set()
        self.paused = PausedClients(self.options.stall_seconds)
        self._sweeper = Sweeper(
            self.options.slice_seconds,
            self.options.max_log_bytes, self._relieve_logs,
            self.options.max_pinned_bytes, self._relieve_pinned,
            self.options.max_window_bytes,
            self.paused.ticker,
        )
        self.handlers = Handlers(
            self.options.max_inbox_messages,
            self.options.max_message_bytes,
            self.options.max_inbound_messages_per_second,
        )
        self._throttle = self.handlers.throttle     # read at every message
        self._names = ChannelNames(self.options.max_channel_name_bytes, self.options.channel_name_pattern)
        self._disconnects: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._received_messages = 0
        self.authorize_hook: AuthorizeHook | None = None
        self._publish_queue = PublishQueue(
            self.options.max_threadsafe_bytes, self.options.slice_seconds, self._publish_frame
        )
        self.loop: asyncio.AbstractEventLoop | None = None
        # What a read brings beyond the rate limit waits until its time, so with a rate limit a read is small.
        read_buffer = ReadBuffer(is_small=self._throttle is not None)
        read_bytes = len(read_buffer.large)
        self.partials = Partials(max(self.options.max_partial_bytes, self.options.max_message_bytes, read_bytes))
        self.context = Context(
            self.options,
            self._sweeper,
            read_buffer=read_buffer,
            partials=self.partials,
            paused=self.paused,
            closing=Deadlines(self.options.close_seconds, methodcaller("_close_overdue")),
            on_connected=self._client_connected,
            on_message=self._message_received,
            on_disconnected=self._client_disconnected,
            find_channel=self.channel,
            on_refused=self._count_refused,
        )
        """What its clients share; whatever accepts a connection makes a Client of it."""
        self.check_thread = self._sweeper.check

    def bind(self) -> None:
        """Belong to the running event loop, for good. `serve()` does this; RuntimeError if it is another one's."""
        loop = asyncio.get_running_loop()
        if self.loop is not None and self.loop is not loop:
            raise RuntimeError("this Hub belongs to another event loop; make a new Hub")
        if self.loop is None:
            self.loop = loop
            self._sweeper.bind(loop)
            self._publish_queue.bind(loop)
            self.context.bind(loop)

    # Channels.

    def configure(self, pattern: str, **settings: Any) -> None:
        """Set options (see ChannelOptions) for the channels that `pattern` matches, as in fnmatch.

        They hold for channels made from now on; of several patterns that match, the later one wins.
        TypeError or ValueError for an unknown or impossible setting.
        """
        options = replace(ChannelOptions(), **settings)  # raises here, not when a channel is made
        self.paused.limit(options.soft_lag_seconds)
        self._channel_options.append((pattern, settings))

    def channel(self, name: str) -> Channel:
        """Return the channel called `name`, made if there is none. Keep it to publish without a look-up.

        Raises TooManyChannels if there are `max_channels`, InvalidChannelName, and TypeError if the name is no str.
        """
        channel = self._channels.get(name)
        if channel is None:
            if not isinstance(name, str):
                raise TypeError(f"a channel's name must be str, got {type(name).__name__}")
            self.check_channel_name(name)
            if not self.has_room_for(name):
                self._refused["max_channels"] += 1
                raise TooManyChannels(name, self.options.max_channels)
            channel = Channel(name, self._sweeper, self._policy_of(name))
            self._channels[name] = channel
        return channel

    def has_room_for(self, name: str) -> bool:
        """Whether there is a channel called `name`, or may be."""
        return len(self._channels) < self.options.max_channels or name in self._channels

    def check_channel_name(self, name: str) -> None:
        """Raise InvalidChannelName if no channel may be called so."""
        if name in self._channels:
            return
        fault = self._names.find_fault(name)
        if fault is not None:
            self._refused["channel_name"] += 1
            raise InvalidChannelName(name, fault)

    def _policy_of(self, name: str) -> Policy:
        options = ChannelOptions()
        for pattern, settings in self._channel_options:
            if fnmatchcase(name, pattern):
                options = replace(options, **settings)
        policy = self._policies.get(options)
        if policy is None:
            policy = self._policies[options] = Policy(options, self.options.max_message_bytes)
        return policy

    def count_subscribers(self, name: str) -> int:
        """Return how many clients are subscribed to `name`, without making a channel."""
        channel = self._channels.get(name)
        return 0 if channel is None else channel.subscribers

    def channels(self) -> list[Channel]:
        """Return the channels there are now."""
        return list(self._channels.values())

    # Publishing.

    def publish(
        self, channel: str, message: Message, *, text: bool | None = None, key: Key | None = None
    ) -> int:
        """Queue `message` for every subscriber of `channel`; return its seq there (from 1).

        It goes out at the end of the loop's turn, with whatever else was published by then. A str goes
        out as text, a bytes-like object as binary, or as text with `text=True`. `key` (str, bytes or int) names
        what the message is about, for a channel that conflates. Never blocks, never runs user code, never
        raises for a client's fault.

        Raises TypeError, ValueError (MessageTooBig, InvalidChannelName among them) for what cannot be sent,
        KeysFull, TooManyChannels, and WrongThread outside the loop's thread; nothing has been queued then.
        """
        return self.channel(channel).publish(message, text=text, key=key)

    def publish_threadsafe(
        self, channel: str, message: Message, *, text: bool | None = None, key: Key | None = None
    ) -> None:
        """Publish from any place: another thread, a signal handler, a `__del__`. It waits for nothing.

        The bytes are copied before this returns. Order is kept for each place. Once the loop is closed this does
        nothing; in a forked child nobody takes what it queues. Raises TypeError or ValueError as `publish` does, and
        PublishQueueFull when `max_threadsafe_bytes` wait already. What only the loop's thread can find out,
        KeysFull and TooManyChannels, is logged as an error.
        """
        if not isinstance(channel, str):
            raise TypeError(f"a channel's name must be str, got {type(channel).__name__}")
        fault = self._names.find_fault(channel)  # whether there is the channel, only the loop's thread knows
        if fault is not None:
            raise InvalidChannelName(channel, fault)
        self._publish_queue.put(channel, encode(message, text, self.options.max_message_bytes), key)

    def _publish_frame(self, channel: str, frame: bytes, key: Key | None) -> None:
        self.channel(channel)._publish_frame(frame, key)

    def flushed(self, *, timeout: float | None = None) -> Coroutine[Any, Any, Flushed]:
        """Await this to know what became of the newest message of every channel, in sum; see `Channel.flushed`.

        With nobody too slow, it returns when the kernel has everything that was published before the call.
        """
        self.check_thread("flushed")
        self._publish_queue.take(math.inf)
        return Asked(self.channels(), None).wait(timeout)

    def forget(self, channel: str, key: Key) -> bool:
        """Drop the newest message of `key` on a conflating channel; returns whether there was one.

        Raises TypeError if `key` cannot be one, and WrongThread.
        """
        measure_key(key)
        self.check_thread("forget")
        found = self._channels.get(channel)
        return found is not None and found.forget(key)

    # Bounds over all channels.

    def _relieve_logs(self) -> None:
        """Free memory of the logs, the largest first, until an eighth of what they may hold is free."""
        aim = self.options.max_log_bytes * 7 // 8
        for is_last_resort in (False, True):
            channels = sorted(self.channels(), key=lambda channel: channel.log_bytes, reverse=True)
            for channel in channels:
                while self._sweeper.ledger.log_bytes > aim and channel._relieve(is_last_resort):
                    pass
                if self._sweeper.ledger.log_bytes <= aim:
                    return

    def _relieve_pinned(self, excess_bytes: int) -> None:
        """Abort who has been blocked for the longest, and who shares its message, until `excess_bytes` are free."""
        viewers: dict[Segment, list[Client]] = {}
        for client in self.paused.holders():
            segment = client._viewed
            if segment is not None and segment.is_pinned:
                viewers.setdefault(segment, []).append(client)
        for segment, clients in viewers.items():
            if excess_bytes <= 0:
                break
            excess_bytes -= segment.capacity    # once all that share it are gone
            for client in clients:
                try:
                    client._evict_now("pinned_full")
                except Exception as error:
                    log_event(logging.ERROR, "abort_failed", exception=error)

    # Clients.

    def clients(self) -> Iterator[Client]:
        """Iterate over a copy of the connected clients."""
        return iter(list(self._clients))

    def slowest(self, n: int = 10) -> list[Client]:
        """Return at most `n` of the clients whose sockets are full, the furthest behind first (`client.lag`)."""
        return heapq.nlargest(n, self.paused.clients(), key=lambda client: client.lag)

    def authorize(self, hook: _Function) -> _Function:
        """Decide who may enter: `hook(request)`, plain or async, before the 101.

        What it returns becomes `client.identity`, or is a Grant, which says also what the client may do. It refuses
        by raising Reject(status, reason); any other exception is logged (not what it says) and answered with 500
        (SystemExit and KeyboardInterrupt end the program then, as for the handlers).
        """
        if not callable(hook):
            raise TypeError(f"authorize needs a function, got {hook!r}")
        if self.authorize_hook is not None:
            raise ValueError(f"there is an authorize hook already: {self.authorize_hook!r}")
        self.authorize_hook = hook
        return hook

    def on_connect(self, handler: _Function) -> _Function:
        """`handler(client)`, plain or async, after the 101.

        It has to end: the client's messages, and its `on_disconnect`, wait for it. What goes on as long as the client
        is there belongs in a task of its own, which `on_disconnect` cancels.
        """
        return self._on("connect", handler)

    def on_message(self, handler: _Function) -> _Function:
        """`handler(client, message)`: str for a text message, bytes for a binary one.

        An async handler gets a client's messages one after the other.
        """
        return self._on("message", handler)

    def on_disconnect(self, handler: _Function) -> _Function:
        """`handler(client, disconnect)`, last of all for a client; see Disconnect."""
        return self._on("disconnect", handler)

    def on_error(self, handler: _Function) -> _Function:
        """`handler(client, exception)` when one of the client's handlers raised, whatever that is.

        After SystemExit and KeyboardInterrupt the program ends with them, if the loop runs in the main thread.
        """
        return self._on("error", handler)

    def _on(self, event: str, handler: _Function) -> _Function:
        self.handlers.register(event, handler)
        return handler

    def relay(self, client: Client, message: str | bytes) -> None:
        """Publish what a client sends to its channel, if it may: `hub.on_message(hub.relay)`.

        One that may not (see Grant) is closed with 1008; one whose channel would be one too many, with 1013.
        """
        if not client.may_publish(client.channel):
            self._refused["publish"] += 1
            client._close_because(CloseCode.POLICY_VIOLATION, "publishing is not allowed", "not_allowed")
            return
        try:
            self.publish(client.channel, message)
        except TooManyChannels:  # not its fault: no error is logged, and it may try again later
            client._close_because(CloseCode.TRY_AGAIN_LATER, "too many channels", "too_many_channels")

    # Called by the compiled client: see _context.pyx.

    def _client_connected(self, client: Client, channels: tuple[str, ...]) -> None:
        """The 101 has been written; `channels` are those that the client is subscribed to from the start."""
        self._clients.add(client)
        for channel in channels:
            client.subscribe(channel)
        self.handlers.handle("connect", client)

    def _count_refused(self, limit: str) -> None:
        self._refused[limit] += 1

    def _message_received(self, client: Client, message: str | bytes) -> None:
        """A whole message has arrived."""
        self._received_messages += 1
        if self._throttle is not None:
            self._throttle.count(client)
        self.handlers.handle("message", client, message)

    def _client_disconnected(self, client: Client) -> None:
        """The connection is gone, the slots and the fd with it."""
        self._clients.discard(client)
        if self._throttle is not None:
            self._throttle.forget(client)
        disconnect = client.disconnected
        assert disconnect is not None  # set before this is called
        self._disconnects[disconnect.cause] += 1
        client._on_gone(client)
        self.handlers.handle("disconnect", client, disconnect)
        if client._inbox is not None and self.loop is not None:
            self.loop.call_later(self.options.close_seconds, self.handlers.tell_if_late, client)

    # Numbers.

    def stats(self) -> dict[str, Any]:
        """Return the hub's numbers: counters since it was made, and what there is now. Raises WrongThread."""
        self.check_thread("stats")
        channels = self.channels()
        return {
            "clients": len(self._clients),
            "channels": len(channels),
            "subscriptions": sum(channel.subscribers for channel in channels),
            "log_bytes": self._sweeper.ledger.log_bytes,
            "partial_bytes": self.partials.total_bytes,
            "pinned_bytes": self._sweeper.ledger.pinned_bytes,
            "lag": self._sum_lag(channels),
            "compression": self._sweeper.deflaters.as_dict() | self._sum_forms(channels),
            "received_messages": self._received_messages,
            "received_compressed_messages": self.context.inflater.scratch.messages,
            "pings": self.context.pings,
            "inbound_pauses": 0 if self._throttle is None else self._throttle.pauses,
            "inbox_pauses": self.handlers.inbox_pauses,
            "refused": dict(self._refused),
            "disconnects": dict(self._disconnects),
            **self._sweeper.counters.as_dict(),
        }

    @staticmethod
    def _sum_forms(channels: list[Channel]) -> dict[str, Any]:
        """Sum up the subscriptions by the form in which each is sent its channel's messages."""
        forms = [channel.subscribers_by_form for channel in channels]
        return {"subscriptions": {name: sum(form[i] for form in forms) for i, name in enumerate(COMPRESSIONS)}}

    @staticmethod
    def _sum_lag(channels: list[Channel]) -> dict[str, Any]:
        """Sum up over all subscriptions; in the histogram each is counted under the least bound it is within."""
        lags = [channel._sum_lag() for channel in channels]
        names = [*map(str, LAG_BOUNDS), "more"]
        return {
            "subscriptions_behind": sum(lag.behind for lag in lags),
            "bytes": sum(lag.bytes for lag in lags),
            "messages": sum(lag.messages for lag in lags),
            "max_bytes": max((lag.max_bytes for lag in lags), default=0),
            "max_seconds": max((lag.max_seconds for lag in lags), default=0.0),
            "subscriptions_by_bytes": {
                name: sum(lag.by_bytes[i] for lag in lags) for i, name in enumerate(names)
            },
        }
