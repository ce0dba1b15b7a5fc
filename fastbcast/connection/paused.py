"""The clients whose sockets are full, looked at every so often: time passes for them though nothing happens.

    pause_writing -> add -> tick ... tick     nothing taken for stall_seconds: evicted
                                              behind on a channel: judged there (soft limits)

Invariants

1. A timer is set if and only if somebody is watched. Nobody is watched for long after the socket has room again.
2. What a client holds in memory is bounded in time: a client that takes nothing is evicted under every policy.
3. The time in which this process was frozen counts against nobody: see _ticker.pyx.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .._ticker import Ticker
from ..logging import log_event

if TYPE_CHECKING:
    from ..channel import Channel
    from ._client import Client

MAX_TICK_SECONDS = 1.0
TICKS_PER_LIMIT = 4
"""A limit of time is seen at most a quarter of it late."""


class PausedClients:
    """The clients of one hub whose sockets are full."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._clients: dict[Client, None] = {}
        self.ticker = Ticker(MAX_TICK_SECONDS, self._tick)
        """Its clock is also that of the soft limits."""
        self.limit(stall_seconds)

    def limit(self, seconds: float) -> None:
        """Look often enough to see that a limit of so many seconds has passed."""
        self.ticker.limit(seconds / TICKS_PER_LIMIT)

    def add(self, client: Client) -> None:
        """Watch `client`, whose socket is full."""
        self._clients.pop(client, None)     # blocked anew: the last of those that were blocked
        self._clients[client] = None
        self.ticker.start()

    def clients(self) -> list[Client]:
        """Return the clients whose sockets are full now."""
        return [client for client in self._clients if client.is_writing_paused]

    def holders(self) -> list[Client]:
        """Return the clients whose Transports may pin memory: being closed, or else blocked for the longest, first."""
        found = [client for client in self._clients if client._viewed is not None]
        return sorted(found, key=lambda client: client.is_writing_paused)

    def _tick(self, now: float) -> None:
        paused = self.clients()
        self._clients = dict.fromkeys([*paused, *self.holders()])
        behind: set[Channel] = set()
        for client in paused:
            try:
                if client._stalled_seconds(now) >= self._stall_seconds:
                    client._evict("stalled")
                else:
                    behind.update(client._channels_behind())
            except Exception as error:   # it is one client's: the others are looked at all the same
                log_event(logging.ERROR, "evict_failed", exception=error)
        for channel in behind:
            channel._judge()
        if self._clients:
            self.ticker.start()
