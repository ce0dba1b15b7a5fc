"""fastbcast: one message in, thousands of WebSocket clients out.

The path of a message, and the file that owns each step:

    hub.publish(channel, message)       hub.py, channel.py; from other places: _publish_queue.pyx
      -> one RFC 6455 frame             _frames.pyx    encoded once
      -> a shared, bounded log          _log.pyx       stored once; every subscriber is a cursor into it
        and, compressed, into others    _lanes.pyx     a log for each form; compressed once (_deflate.pyx) for all
      -> the end of the loop's turn     _sweeper.pyx   which channels are swept, and for how long
      -> one sweep, without the GIL     _round.pyx     one send(2) per subscriber of all it lacks
      -> the socket, or its Transport   _wire.pyx      the one ordered writer of a client

    one channel, in layers              _fanout.pyx    publish, subscribe, catch up
                                        _round.pyx     the sweep
                                        _delivery.pyx  one subscriber's turn: what a sweep cannot finish
                                        _tally.pyx     written, conflated, skipped, evicted, left, pending
                                        _forms.pyx     who is sent which form: plain, deflated, windowed
                                        _roster.pyx    who is subscribed, and how far behind

    who does not keep up                _policy.pyx    limits, and what becomes of it
      of each key only the newest       _compact.pyx   what a conflating channel sends to who is behind
      as time passes                    watch.py       stalled clients, soft limits
      by which clock                    _ticker.pyx    all deadlines: frozen time does not count; read, then judge

    what a client sends                 _parser.pyx    bytes -> messages, checked as RFC 6455 asks
                                        _inflate.pyx   what comes compressed, with a bound
                                        _client.pyx    the life of a connection -> handlers.py
      what all of a hub's share         _context.pyx   limits, buffers, and whom they tell what has happened
      where it is subscribed            _subscriber.pyx
      how much, and what it may do      throttle.py, rights.py
    who is silent                       keepalive.py
    how it got in                       listeners.py -> acceptor.py -> (tls.py) -> _door.pyx -> server.py
      or which other answer it gets     routes.py, responses.py
      rules                             _head.pyx (httptools), _handshake.pyx, authority.py, extensions.py, origins.py
      limits                            lobby.py (before the 101, with deadlines.py), admission.py (how many)
      whom it is from                   proxies.py
    how it all ends                     drain.py, handover.py (to the next process), process.py (signals)

`hub.py` and what is below it are the fan-out component; `server.py` puts it on a port; `cli.py` is the
command, `streams.py` its standard streams, `tokens.py` its token files; `tool.py`, with `interim.py` and `urls.py`,
is its small clients; `testing` is for tests of what is built on it. Settings are in
`options.py`, exceptions in `exceptions.py`, small types in `typing.py`; what is logged, and
how, in `log.py`.
"""

from ._frames import CloseCode
from ._version import __version__
from .channel import Channel
from .connection._client import Client
from .exceptions import (
    FastbcastError,
    InvalidChannelName,
    KeysFull,
    MessageTooBig,
    PublishQueueFull,
    Reject,
    TooManyChannels,
    TooManySubscriptions,
    WrongThread,
)
from .grant import Grant
from .hub import Hub
from .options import ChannelOptions, HubOptions, ServerOptions
from .server.server import Server, serve
from .typing import Disconnect, Flushed, Lag, Missed, Request

__all__ = [
    "Channel",
    "ChannelOptions",
    "Client",
    "CloseCode",
    "Disconnect",
    "FastbcastError",
    "Flushed",
    "Grant",
    "Hub",
    "HubOptions",
    "InvalidChannelName",
    "KeysFull",
    "Lag",
    "MessageTooBig",
    "Missed",
    "PublishQueueFull",
    "Reject",
    "Request",
    "Server",
    "ServerOptions",
    "TooManyChannels",
    "TooManySubscriptions",
    "WrongThread",
    "__version__",
    "serve",
]
