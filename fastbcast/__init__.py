"""fastbcast: one message in, thousands of WebSocket clients out.

On top are the modules that applications import, and the ground floor on which everything stands. Each folder is one
stretch of a message's way; its `__init__.py` maps its files. A module imports only from what stands above it in this
list (tests/test_layers.py asserts that):

    ground floor  _frames.pyx           one RFC 6455 frame, encoded once
                  _clock.pxd, _ticker.pyx, deadlines.py     time; deadlines do not count frozen time
                  options.py, exceptions.py, typing.py, grant.py, channel_names.py, header_fields.py, urls.py,
                  logging.py, failures.py
    deflate/      permessage-deflate, both ways
    log/          messages, each stored once; a subscriber is a position in them
    fanout/       one channel: its subscribers, and the sweep that writes to each what it lacks
    channel.py    a channel, as applications see it
    connection/   one client, from its 101 to its end
    hub.py        the hub: channels and clients, without any server; _publish_queue.pyx: publishing from other threads
    http/         the one request that a connection begins with, and what it becomes
    server/       sockets, TLS, drain, and the process
    identity/     hooks that decide who may enter; applications import them as tokens.py
    command/      the command line

    load/         the load generator: it stands on the ground floor and deflate/ only
    testing/      real servers and clients for tests: it stands on the server and on load/
    web/          the page of `fastbcast serve --page`

The way of a message:

    hub.publish(channel, message)       hub.py, channel.py
      -> one RFC 6455 frame             _frames.pyx               encoded once
      -> a shared, bounded log          log/_log.pyx              stored once
        and, compressed, into others    log/_lanes.pyx            compressed once (deflate/_deflate.pyx) for all
      -> the end of the loop's turn     fanout/_sweeper.pyx       which channels are swept, and for how long
      -> one sweep, without the GIL     fanout/_round.pyx         one send(2) per subscriber of all it lacks
      -> the socket, or its Transport   fanout/_wire.pyx          the one ordered writer of a client

The way of a client:

    server/listeners.py -> server/acceptor.py -> (server/tls.py) -> http/_handshake.pyx -> connection/_client.pyx

docs/data-path.md follows a message step by step, with what each step costs.
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
