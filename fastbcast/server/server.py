"""serve(): a hub on a port, a Unix socket, or sockets made by somebody else.

    Listeners -> Acceptor -> [Tls] -> Handshake (handshake, authorize, page) -> Client -> Hub

`async with serve(hub, "127.0.0.1", 8080) as server:` or `server = await serve(...)`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl as tls_module
import sys
from collections import Counter
from collections.abc import Coroutine, Generator, Iterable
from contextlib import suppress
from functools import partial
from importlib.resources import files
from types import TracebackType
from typing import Any

from .._frames import CloseCode, encode_close
from ..connection._client import Client
from ..connection.keepalive import Keepalive
from ..http._handshake import Handshake
from ..http.admission import Admission
from ..http.origins import Origins
from ..http.pending import PendingHandshakes
from ..http.proxies import TrustedProxies
from ..http.routes import make_routes
from ..hub import Hub
from ..options import COMPRESSIONS, ServerOptions
from .acceptor import Acceptor
from .drain import close_spread, make_reason
from .listeners import Listeners, normalize_host, normalize_path, open_listeners
from .tls import Tls

__all__ = ["Server", "serve"]

# In CPython's socket module since 3.12; before, the platforms' own numbers.
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 0x201 if sys.platform == "darwin" else 25)


_Sock = socket.socket | Iterable[socket.socket] | Listeners


class Server:
    """What `serve()` gives. Its methods belong to the event loop's thread."""

    def __init__(
        self,
        hub: Hub,
        host: str | None,
        port: int,
        options: ServerOptions,
        uds: str | os.PathLike[str] | None = None,
        sock: _Sock | None = None,
        ssl: tls_module.SSLContext | None = None,
    ) -> None:
        self.hub = hub
        self.host = normalize_host(host) if uds is None and sock is None else None
        self._port = port
        self._uds = None if uds is None else normalize_path("uds", uds)
        self._sock = sock
        self.ssl = ssl
        self.options = options
        page = files("fastbcast").joinpath("web/index.html").read_bytes() if options.page else None
        self.routes = make_routes(page, hub.count_subscribers)
        self.on_client_gone = self._client_gone     # one bound method for all clients
        self.origins = Origins(options.origins)
        self.proxies = TrustedProxies(options.forwarded_allow_ips)
        self.has_proxies = bool(options.forwarded_allow_ips)
        self.admission = Admission(options)
        self.is_closing = False
        self.handshakes = PendingHandshakes(options)
        self.responses: Counter[int] = Counter()
        self._keepalive = Keepalive(options.ping_seconds, options.pong_seconds) if options.ping_seconds else None
        self.refused: Counter[str] = Counter()
        self._compression: Counter[str] = Counter(dict.fromkeys(COMPRESSIONS, 0))
        self._clients: dict[Client, str | None] = {}    # and what admission counts each under
        self._connecting: set[asyncio.Future[Any]] = set()
        self._listeners = Listeners()
        self._acceptor: Acceptor | None = None
        self._is_started = False
        self._draining: asyncio.Event | None = None     # set when the drain that runs is over
        self._empty: asyncio.Event = asyncio.Event()
        self._closed: asyncio.Event = asyncio.Event()

    # Starting and stopping.

    async def start(self) -> Server:
        """Bind and accept; OSError if an address cannot be bound, and then it may be tried again.

        RuntimeError if it was started before, running or closed: `serve(...)` makes another one.
        """
        if self._is_started:
            raise RuntimeError("this server has been started before; call serve(...) again for another one")
        self.hub.bind()
        self._is_started = True
        try:
            self._listeners = await open_listeners(self.host, self._port, self._uds, self._sock, self.options.backlog)
        except BaseException:
            self._is_started = False
            raise
        self._acceptor = Acceptor(self._listeners.sockets, self._connect)
        self._acceptor.start()
        return self

    @property
    def ssl(self) -> tls_module.SSLContext | None:
        """The context of connections from now on; None: without TLS. TypeError or ValueError for an impossible one."""
        return self._ssl

    @ssl.setter
    def ssl(self, context: tls_module.SSLContext | None) -> None:
        if context is not None:
            if not isinstance(context, tls_module.SSLContext):
                raise TypeError(f"ssl must be an SSLContext, got {context!r}")
            # Found here, or it would end every connection before there is anybody to tell.
            if context.protocol == tls_module.PROTOCOL_TLS_CLIENT:
                raise ValueError("ssl must be a server's context: ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)")
        self._ssl = context

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets."""
        return tuple(self._listeners.sockets)

    @property
    def listeners(self) -> Listeners:
        """The listening sockets and their files, for who takes them over."""
        return self._listeners

    @property
    def port(self) -> int:
        """The port of the first listening socket: the one that was free if 0 was asked for. 0 for a Unix socket.

        RuntimeError if the server does not listen: it was not started, or has been closed.
        """
        if not self.sockets:
            raise RuntimeError("the server does not listen: it was not started, or has been closed")
        address = self.sockets[0].getsockname()
        return address[1] if isinstance(address, tuple) else 0

    async def drain(self, over: float, *, retry_after: float | None = None) -> None:
        """Stop accepting, close the clients with 1012 spread over `over` seconds, and wait until they are gone.

        Each gets what was published before its CLOSE, whose reason says when to come back:
        "service restart; retry-after=4.2" (seconds; `over` if it is not given). Handshakes go on; those
        that take longer than `over`, and clients that are behind until then, are ended as `close()` does.
        `close()` meanwhile ends it at once. Another call meanwhile waits for the same end.
        """
        reason = make_reason(over if retry_after is None else retry_after)
        encode_close(CloseCode.SERVICE_RESTART, reason)
        if not 0 <= over < float("inf"):
            raise ValueError(f"over must be a number of seconds, got {over!r}")
        if self._acceptor is None:
            return
        while self._draining is not None:   # if that drain is cancelled, this one goes on
            await self._draining.wait()
        self._draining = asyncio.Event()
        try:
            self._stop_accepting()
            if not self.is_closing:
                await close_spread(lambda: list(self._clients), self._is_empty, over, reason)
            await self.close(code=CloseCode.SERVICE_RESTART, reason=reason)
        finally:
            self._draining.set()
            self._draining = None

    def _is_empty(self) -> bool:
        return self.is_closing or not (self._clients or self.handshakes or self._connecting)

    def _stop_accepting(self) -> None:
        assert self._acceptor is not None
        self._acceptor.close()
        self._listeners.close()

    async def close(self, *, code: int = CloseCode.GOING_AWAY, reason: str = "going away") -> None:
        """Stop accepting, close every client with `code`, and wait until they are gone.

        Who does not answer the CLOSE within the hub's `close_seconds` is aborted; everybody, if this is cancelled.
        Another call meanwhile waits for the same end.
        """
        if self._acceptor is None or self._closed.is_set():
            return
        encode_close(code, reason)  # raises now what would be wrong with them later
        self._stop_accepting()
        self.is_closing = True
        try:
            await asyncio.gather(*self._connecting, return_exceptions=True)
            self.handshakes.close()
            for client in list(self._clients):
                client._close_because(code, reason, "going_away")
            if self._clients:
                self._empty.clear()
                await self._empty.wait()
            await self.hub.handlers.finish(self._has_accepted, self.hub.options.close_seconds)
        finally:
            # Nobody is left, unless this was cancelled: then nobody is waited for.
            self.handshakes.close()
            for client in list(self._clients):
                client.abort()
            self._closed.set()

    def _has_accepted(self, client: Client) -> bool:
        return client._on_gone is self.on_client_gone

    async def wait_closed(self) -> None:
        """Wait until `close()` is done."""
        await self._closed.wait()

    async def serve_forever(self) -> None:
        """Wait until the server is closed, or close it when this is cancelled."""
        try:
            await self._closed.wait()
        except asyncio.CancelledError:
            await self.close()
            raise

    # A connection's way in.

    def _connect(self, accepted: socket.socket, address: Any) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self.options.notsent_lowat_bytes and accepted.family != socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, self.options.notsent_lowat_bytes)
            if self.options.send_buffer_bytes:
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.options.send_buffer_bytes)
            # What a Task would do, without one: that would be a tenth of what a handshake costs.
            opening = loop.connect_accepted_socket(partial(self._make_protocol, accepted, address), accepted)
            connected: asyncio.Future[Any] = opening.send(None)
        except OSError:  # the peer is gone again
            accepted.close()
            return
        self._connecting.add(connected)
        connected.add_done_callback(partial(self._connected, opening))

    def _make_protocol(self, accepted: socket.socket, address: Any) -> asyncio.BaseProtocol:
        handshake = Handshake(self, accepted, address)
        return handshake if self._ssl is None else Tls(self._ssl, handshake, self._tls_failed)

    def _tls_failed(self) -> None:
        self.refused["tls"] += 1

    def _connected(self, opening: Coroutine[Any, Any, Any], connected: asyncio.Future[Any]) -> None:
        self._connecting.discard(connected)
        # Its end is a StopIteration; a peer that is gone already, or a `close()` that was cancelled, is no news.
        with suppress(StopIteration, OSError, asyncio.CancelledError):
            opening.send(None)

    def let_in(self, client: Client, response: bytes, early_data: bytes, form: str, counted_as: str | None) -> None:
        """Answer with the 101 `response`: `client` is one from now on.

        Called by its Handshake. early_data: what came behind the request; form: what it negotiated of COMPRESSIONS;
        counted_as: what admission counts it under.
        """
        self.responses[101] += 1
        self._compression[form] += 1
        is_subscribed = self.options.subscribe_path and client.may_subscribe(client.channel)
        self._clients[client] = counted_as
        try:
            if self._keepalive is not None:
                self._keepalive.add(client)
            client._upgrade(response, early_data, (client.channel,) if is_subscribed else ())  # last: it calls handlers
        except BaseException:   # not one after all: the connection is its Handshake's still
            self._forget(client)
            raise

    def _client_gone(self, client: Client) -> None:
        """A client's connection has ended."""
        self.admission.leave(self._forget(client))
        if not self._clients:
            self._empty.set()

    def _forget(self, client: Client) -> str | None:
        if self._keepalive is not None:
            self._keepalive.discard(client)
        return self._clients.pop(client)

    def stats(self) -> dict[str, Any]:
        """Return the server's numbers: what there is now, and counters since it was made.

        connections: clients and handshakes; handshakes: connections before their 101 or the end of their answer;
        addresses: those that connections are counted by; responses: {status: how many}; refused: {limit or rule
        that was broken: how many}; compression: clients by what they have negotiated, {off, deflate (each message
        alone), window (may be on a channel's window)}. Those of the hub are in `hub.stats()`.
        """
        return {
            "connections": len(self._clients) + len(self.handshakes),
            "handshakes": len(self.handshakes),
            "addresses": self.admission.addresses,
            "responses": dict(self.responses),
            "refused": dict(self.refused),
            "compression": dict(self._compression),
        }


class serve:  # noqa: N801  (used like a function, as websockets.serve is)
    """Serve `hub` on `host`:`port`; await it, or use it as an async context manager that closes at the end.

    host, port: where to listen: every address of `host` that this machine has, None for all addresses; port 0 takes a
    free one (`server.port`).
    uds: a Unix socket's path, instead of them. A dead server's file there is replaced; removed at the end.
    sock: a listening socket, or some, instead of them (an inherited descriptor: `socket.socket(fileno=3)`); closed
    at the end.
    ssl: a server's SSLContext, for TLS; `server.ssl = context` changes it for connections from then on.
    options: see ServerOptions.

    Raises OSError if an address cannot be bound, TypeError or ValueError for an impossible option. It is for one
    server: RuntimeError if it is awaited or entered again, and that one goes on.
    """

    def __init__(
        self,
        hub: Hub,
        host: str | None = "127.0.0.1",
        port: int = 0,
        *,
        uds: str | os.PathLike[str] | None = None,
        sock: _Sock | None = None,
        ssl: tls_module.SSLContext | None = None,
        **options: Any,
    ) -> None:
        if uds is not None and sock is not None:
            raise ValueError("uds and sock are two places to listen: give one")
        self._server = Server(hub, host, port, ServerOptions(**options), uds, sock, ssl)

    def __await__(self) -> Generator[Any, None, Server]:
        return self._server.start().__await__()

    async def __aenter__(self) -> Server:
        return await self._server.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._server.close()
