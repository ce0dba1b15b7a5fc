"""How one connection of a load run begins: its socket, its request, and what the answer must be."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import socket
from itertools import cycle
from typing import Any

from ..urls import prepare_url
from .plan import SPREAD_ABOVE_CLIENTS, Plan

__all__ = ["CannotConnect", "Connector"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_IP_BIND_ADDRESS_NO_PORT = 24
"""ip(7): the port is chosen at connect, so that two connections to different places may share one."""
_CHOOSE_SECONDS = 2.0
"""For each address of a name that has several."""
_LOOPBACK_SOURCES = tuple(f"127.0.0.{last}" for last in range(1, 9))


class CannotConnect(Exception):
    """No connection can be made: the text says why, and what may help."""


class Connector:
    """Makes sockets that connect to a plan's server. Raises CannotConnect if its name has no address."""

    def __init__(self, plan: Plan) -> None:
        host, port = plan.target.hostname, plan.target.port or 80
        assert host is not None  # plan.py has looked
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise CannotConnect(f"{host}: {getattr(error, 'strerror', None) or error}") from None
        self.family, self.address = _choose(found)
        self.plan = plan
        sources = plan.source_addresses
        if not sources and plan.clients > SPREAD_ABOVE_CLIENTS and str(self.address[0]).startswith("127."):
            sources = _LOOPBACK_SOURCES
        self._sources = cycle(sources) if sources else None
        authorization = prepare_url(plan.url)[1]
        if plan.token is not None:
            authorization = f"Bearer {plan.token}"
        ours = {"Host": plan.target.netloc, "Authorization": authorization}
        given = {name.lower() for name, _ in plan.headers}
        headers = [(name, value) for name, value in ours.items() if value is not None and name.lower() not in given]
        headers += [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
        if plan.has_deflate:
            headers.append(("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"))
        self._lines = "\r\n".join(f"{name}: {value}" for name, value in (*headers, *plan.headers))

    def open_socket(self, receive_buffer_bytes: int = 0) -> int:
        """Return the descriptor of a socket that connects. Whoever calls owns it.

        receive_buffer_bytes: SO_RCVBUF, before it connects, since that settles the window's scale; 0: the kernel's.
        """
        try:
            sock = socket.socket(self.family, socket.SOCK_STREAM)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise CannotConnect("no more files may be open: raise `ulimit -n`, or use --processes") from None
            raise CannotConnect(f"no socket: {error.strerror}") from None
        with sock:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            try:
                if self._sources is not None:
                    source = next(self._sources)
                    if self.family == socket.AF_INET:
                        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                    sock.bind((source, 0))
            except OSError as error:
                raise CannotConnect(f"source address {source}: {error.strerror}") from None
            problem = sock.connect_ex(self.address)
            if problem == errno.EADDRNOTAVAIL:
                raise CannotConnect("no free port: give more --source-addresses, like 127.0.0.1-8")
            if problem not in (0, errno.EINPROGRESS):
                raise CannotConnect(f"{self.plan.shown_url}: {os.strerror(problem)}")
            return sock.detach()

    def make_request(self, channel: int) -> tuple[bytes, bytes]:
        """The head of a handshake, and what its Sec-WebSocket-Accept must be (RFC 6455 section 4.1)."""
        key = base64.b64encode(os.urandom(16))
        start = f"GET {self.plan.path_of(channel)} HTTP/1.1\r\n"
        head = f"{start}{self._lines}\r\nSec-WebSocket-Key: {key.decode()}\r\n\r\n"
        return os.fsencode(head), base64.b64encode(hashlib.sha1(key + _GUID).digest())


def _choose(found: list[Any]) -> tuple[int, Any]:
    """The family and address that answers, of what getaddrinfo has found: `localhost` may be ::1 and 127.0.0.1."""
    for family, _, _, _, address in found if len(found) > 1 else ():
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(_CHOOSE_SECONDS)
            if sock.connect_ex(address) == 0:
                return family, address
    return found[0][0], found[0][4]
