"""Accepting connections, with a pause when file descriptors run out.

asyncio's servers are not used here: uvloop's closes itself for good at EMFILE, and asyncio's logs a
traceback for every try. Here accepting pauses, a warning is logged, and the clients wait in the
kernel's queue until descriptors are free again.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from ..logging import log_event

ACCEPTS_PER_TURN = 64
"""So that a storm of connects leaves the loop's other work its share of each turn."""
RETRY_SECONDS = 0.1
"""How soon accepting is tried again when descriptors or memory were short, or the listener is broken."""
# accept(2): errors of the one connection that is gone again (or that a firewall forbids), not of the listener.
GONE = {
    errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ETIMEDOUT,
    errno.ENETDOWN, errno.EHOSTDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH,
}


class Accepted(socket.socket):
    """A socket.socket without the enums of its family and type: made anew at every look, they cost more than accept.

    And it is one, or uvloop would close its descriptor a second time, when the number may be another file's.
    """

    __slots__ = ()
    family = socket.SocketType.family  # type: ignore[assignment]
    type = socket.SocketType.type  # type: ignore[assignment]


class Acceptor:
    """Accepts connections on listening sockets; gives `on_accept` each, non-blocking, and the peer's address."""

    def __init__(self, sockets: Sequence[socket.socket], on_accept: Callable[[socket.socket, Any], None]) -> None:
        self._sockets = sockets
        self._on_accept = on_accept
        self._loop = asyncio.get_running_loop()
        self._is_short = False
        self._retry: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to accept."""
        for listener in self._sockets:
            if listener.fileno() >= 0:
                self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        family = int(listener.family)
        # asyncio sets TCP_NODELAY on what says that it is TCP.
        protocol = socket.IPPROTO_TCP if family in (socket.AF_INET, socket.AF_INET6) else 0
        for _ in range(ACCEPTS_PER_TURN):
            try:
                fd, address = listener._accept()  # type: ignore[attr-defined]
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in GONE:
                    continue
                self._pause(error)
                return
            accepted = Accepted(family, socket.SOCK_STREAM, protocol, fd)
            accepted.setblocking(False)
            self._on_accept(accepted, address)

    def _pause(self, error: OSError) -> None:
        if not self._is_short:
            self._is_short = True
            log_event(logging.WARNING, "accept_paused", reason=error.strerror)
            self._stop()
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._loop.call_later(RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        try:
            for listener in self._sockets:
                self._accept(listener)
        finally:
            if self._retry is None:  # not paused again
                self._is_short = False
                log_event(logging.INFO, "accept_resumed")
                self.start()

    def _stop(self) -> None:
        for listener in self._sockets:
            if listener.fileno() >= 0:  # else the application has closed it
                self._loop.remove_reader(listener.fileno())

    def close(self) -> None:
        """Stop accepting; the sockets stay open."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._stop()
