"""The life of a server's process: it takes over, serves, reads files again at SIGHUP, drains, and ends.

    find_predecessor -> start -> ... SIGHUP: reload ... -> run until  SIGTERM, or taken over:  drain (1012)
                                                                      SIGINT:                  close (1001)
                                                                      a second signal:         the end, at once
                                                                      (the same one within SAME_STOP_SECONDS: ignored)
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable

from ..logging import log_event
from .handover import Offer, Predecessor, find_predecessor
from .server import Server, serve

TAKEN_OVER = "taken over"
SAME_STOP_SECONDS = 0.1
"""The same signal again within this time is one stop that arrives twice: a terminal's Ctrl-C reaches a whole process
group, and a parent in it passes the signal on. Nobody presses Ctrl-C twice in so short a time."""


class Process:
    """One server and its process; made first of all, so that no signal comes too early."""

    def __init__(self, handover_path: str | None, drain_seconds: float) -> None:
        self._handover_path = handover_path
        self._drain_seconds = drain_seconds
        self._loop = asyncio.get_running_loop()
        self._stop: asyncio.Future[signal.Signals | str] = self._loop.create_future()
        self._signal: tuple[signal.Signals, float] | None = None    # the first that came, and when
        self._offer: Offer | None = None
        self.predecessor: Predecessor | None = None
        """Who hands over its sockets to this process."""
        self.reloads: list[Callable[[], object]] = []
        """What SIGHUP does. Each may raise ValueError or OSError; then, all is as it was."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._signalled, number)

    async def find_predecessor(self) -> None:
        """Set `predecessor` if there is one; HandoverFailed if what is there hands over nothing."""
        if self._handover_path is not None:
            self.predecessor = await find_predecessor(self._handover_path)

    async def start(self, serving: serve) -> Server:
        """Serve, and send the predecessor home. OSError if something cannot be bound."""
        server = await serving
        if self._handover_path is not None and not self._stop.done():
            try:
                if self.predecessor is not None:
                    await self.predecessor.dismiss(server.listeners)
                self._offer = Offer(self._handover_path, server.listeners, self._taken_over)
            except OSError as error:
                if self.predecessor is None:
                    await server.close()
                    raise
                log_event(logging.ERROR, "handover_not_offered", path=self._handover_path, reason=str(error))
            finally:
                if self.predecessor is not None:
                    self.predecessor.close()
        if self.reloads:    # with nothing to read again it ends the process, as ever: a terminal was closed
            self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        return server

    async def run(self, server: Server) -> None:
        """Wait for the end, and bring it about."""
        try:
            received = await self._stop
        except asyncio.CancelledError:  # a handler has raised SystemExit, say
            await server.close()
            raise
        if self._offer is not None and received != TAKEN_OVER:
            # Before the sockets are closed, in the same turn: a process that starts while the clients are drained finds
            # nobody, and binds its own.
            self._offer.withdraw()
        if received == signal.SIGINT:
            await server.close()
        else:
            await server.drain(self._drain_seconds, retry_after=0 if received == TAKEN_OVER else None)
        if self._offer is not None:
            await self._offer.close()

    def _signalled(self, received: signal.Signals) -> None:
        now = self._loop.time()
        if self._signal is not None:
            first, signalled_at = self._signal
            if received == first and now - signalled_at < SAME_STOP_SECONDS:
                return
            os._exit(128 + received)
        self._signal = received, now
        if not self._stop.done():   # a process that was taken over drains already, and goes on
            self._stop.set_result(received)

    def _taken_over(self) -> None:
        if not self._stop.done():
            self._stop.set_result(TAKEN_OVER)

    def _reload(self) -> None:
        for reload in self.reloads:
            try:
                reload()
            except (ValueError, OSError) as error:
                log_event(logging.ERROR, "reload_failed", reason=str(error))
