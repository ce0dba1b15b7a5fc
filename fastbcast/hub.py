"""Hub and Channel: the fan-out component, without any server.

    hub.publish(channel, message) -> Channel (a Fanout: log + subscribers) -> Sweeper, at the end of the turn

Invariants

1. A channel lives as long as somebody needs it: a subscriber, bytes not yet swept, or the application
   that keeps what `hub.channel()` returned. Then it is forgotten, and with it its seq.
2. All methods belong to the loop's thread, but `publish_threadsafe`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from ._fanout import Fanout
from ._frames import encode
from ._sweeper import Sweeper
from .exceptions import PublishQueueFull
from .handlers import Handlers
from .options import ChannelOptions, HubOptions
from .typing import AuthorizeHook, Flushed

if TYPE_CHECKING:
    from ._client import Client
    from .typing import Message

__all__ = ["Channel", "Hub"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Channel(Fanout):
    """One channel of a hub: `publish(message)`, `subscribers`, `seq`. Get it with `hub.channel(name)`."""

    __slots__ = ()

    async def flushed(self, *, timeout: float | None = None) -> Flushed:
        """Wait until every subscriber of now has what was published so far; see `Hub.flushed`."""
        return await _flush([self], timeout)


async def _flush(channels: list[Channel], timeout: float | None) -> Flushed:
    done = asyncio.get_running_loop().create_future()
    waiting = len(channels)

    def on_done() -> None:
        nonlocal waiting
        waiting -= 1
        if waiting == 0 and not done.done():
            done.set_result(None)

    flushes = [(channel, channel._flush(on_done)) for channel in channels]
    if not channels:
        return Flushed(0, 0, 0, 0)
    try:
        await asyncio.wait_for(done, timeout)
    except asyncio.TimeoutError:
        pass
    finally:
        counts = [channel._finish_flush(flush) for channel, flush in flushes]
    return Flushed(*map(sum, zip(*counts, strict=True)))


class Hub:
    """Channels and their clients.

    Make one anywhere; it belongs to the event loop whose thread first serves it.
    """

    def __init__(self, **options: Any) -> None:
        self.options = HubOptions(**options)
        self._channel_options: list[tuple[str, dict[str, Any]]] = []
        self._channels: WeakValueDictionary[str, Channel] = WeakValueDictionary()
        self._clients: set[Client] = set()
        self._sweeper = Sweeper(self.options.slice_seconds)
        self.handlers = Handlers(self.options.max_inbox_messages)
        self._disconnects: Counter[str] = Counter()
        self._received_messages = 0
        self.authorize_hook: AuthorizeHook | None = None
        self._queue: deque[tuple[str, bytes]] = deque()
        self._queued_bytes = 0
        self._queue_lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        # Read by the compiled client at every message.
        self.max_message_bytes = self.options.max_message_bytes
        self.max_fragments = self.options.max_fragments
        self.max_direct_bytes = self.options.max_direct_bytes
        self.close_seconds = self.options.close_seconds
        self.check_thread = self._sweeper.check

    def bind(self) -> None:
        """Belong to the running event loop, for good. `serve()` does this; RuntimeError if it is another one's."""
        loop = asyncio.get_running_loop()
        if self.loop is not None and self.loop is not loop:
            raise RuntimeError("this Hub belongs to another event loop; make a new Hub")
        if self.loop is None:
            self.loop = loop
            self._sweeper.bind(loop)
            if self._queue:
                self._take_queue()

    # Channels.

    def configure(self, pattern: str, **settings: Any) -> None:
        """Set options (see ChannelOptions) for the channels that `pattern` matches, as in fnmatch.

        They hold for channels made from now on; of several patterns that match, the later one wins.
        TypeError or ValueError for an unknown or impossible setting.
        """
        replace(ChannelOptions(), **settings)  # raises here, not when a channel is made
        self._channel_options.append((pattern, settings))

    def channel(self, name: str) -> Channel:
        """Return the channel called `name`, made if there is none. Keep it to publish without a look-up."""
        channel = self._channels.get(name)
        if channel is None:
            if not isinstance(name, str):
                raise TypeError(f"a channel's name must be str, got {type(name).__name__}")
            options = ChannelOptions()
            for pattern, settings in self._channel_options:
                if fnmatchcase(name, pattern):
                    options = replace(options, **settings)
            channel = Channel(name, self._sweeper, max_message_bytes=self.max_message_bytes, **asdict(options))
            self._channels[name] = channel
        return channel

    def count_subscribers(self, name: str) -> int:
        """Return how many clients are subscribed to `name`, without making a channel."""
        channel = self._channels.get(name)
        return 0 if channel is None else channel.subscribers

    def channels(self) -> list[Channel]:
        """Return the channels there are now."""
        return list(self._channels.values())

    # Publishing.

    def publish(self, channel: str, message: Message, *, text: bool | None = None) -> int:
        """Queue `message` for every subscriber of `channel`; return its seq there (from 1).

        It goes out at the end of the loop's turn, with whatever else was published by then. A str goes
        out as text, a bytes-like object as binary, or as text with `text=True`. Never blocks, never runs
        user code, never raises for a client's fault.

        Raises TypeError, ValueError (MessageTooBig among them) for a message that cannot be sent, and
        WrongThread outside the loop's thread; nothing has been queued then.
        """
        return self.channel(channel).publish(message, text=text)

    def publish_threadsafe(self, channel: str, message: Message, *, text: bool | None = None) -> None:
        """Publish from any thread; the bytes are copied before this returns.

        Order is kept for each thread. Raises TypeError or ValueError as `publish` does, and
        PublishQueueFull when `max_threadsafe_bytes` wait already.
        """
        if not isinstance(channel, str):
            raise TypeError(f"a channel's name must be str, got {type(channel).__name__}")
        frame = encode(message, text, self.max_message_bytes)
        with self._queue_lock:
            if self._queued_bytes + len(frame) > self.options.max_threadsafe_bytes:
                raise PublishQueueFull(self._queued_bytes, self.options.max_threadsafe_bytes)
            is_first = not self._queue
            self._queue.append((channel, frame))
            self._queued_bytes += len(frame)
        if is_first and self.loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to get it
                self.loop.call_soon_threadsafe(self._take_queue)

    def _take_queue(self) -> None:
        with self._queue_lock:
            queue, self._queue, self._queued_bytes = self._queue, deque(), 0
        for name, frame in queue:
            self.channel(name)._publish_frame(frame)

    async def flushed(self, *, timeout: float | None = None) -> Flushed:
        """Wait until the kernel has everything published so far, for every subscriber of now.

        Returns what became of the subscriptions: `Flushed(written, evicted, left, pending)`; `pending`
        is 0 unless `timeout` (seconds) ran out. What clients have read is not known to anybody here.
        """
        self.check_thread("flushed")
        self._take_queue()
        return await _flush(self.channels(), timeout)

    # Clients.

    def clients(self) -> Iterator[Client]:
        """Iterate over a copy of the connected clients."""
        return iter(list(self._clients))

    def authorize(self, hook: _Function) -> _Function:
        """Decide who may enter: `hook(request)`, plain or async, before the 101.

        What it returns becomes `client.identity`. It refuses by raising Reject(status, reason); any other
        exception is logged and answered with 500.
        """
        if self.authorize_hook is not None:
            raise ValueError(f"there is an authorize hook already: {self.authorize_hook!r}")
        self.authorize_hook = hook
        return hook

    def on_connect(self, handler: _Function) -> _Function:
        """`handler(client)`, plain or async, after the 101."""
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
        """`handler(client, exception)` when one of the client's handlers raised."""
        return self._on("error", handler)

    def _on(self, event: str, handler: _Function) -> _Function:
        self.handlers.register(event, handler)
        return handler

    # Called by the compiled client; not for applications.

    def client_connected(self, client: Client) -> None:
        """The 101 has been written."""
        self._clients.add(client)
        if client.server.subscribe_path:
            client.subscribe(client.channel)
        self.handlers.handle("connect", client)

    def message_received(self, client: Client, message: str | bytes) -> None:
        """A whole message has arrived."""
        self._received_messages += 1
        self.handlers.handle("message", client, message)

    def client_disconnected(self, client: Client) -> None:
        """The connection is gone, the slots and the fd with it."""
        self._clients.discard(client)
        disconnect = client.disconnected
        assert disconnect is not None  # set before this is called
        self._disconnects[disconnect.cause] += 1
        client.server.client_gone(client)
        self.handlers.handle("disconnect", client, disconnect)

    # Numbers.

    def stats(self) -> dict[str, Any]:
        """Return the hub's numbers: counters since it was made, and what there is now."""
        channels = self.channels()
        return {
            "clients": len(self._clients),
            "channels": len(channels),
            "subscriptions": sum(channel.subscribers for channel in channels),
            "log_bytes": sum(channel.log_bytes for channel in channels),
            "received_messages": self._received_messages,
            "disconnects": dict(self._disconnects),
            **self._sweeper.counters.as_dict(),
        }
