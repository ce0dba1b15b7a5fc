"""How many messages a second one client may send: a token bucket for each, which holds a second's worth.

    message -> there is room: nothing happens
               there is none: reading from its socket pauses until there is; TCP holds the peer back

Invariants

1. Nothing is lost, and nothing is handled before its time: what the last read of the socket had brought waits, too.
2. There is a timer only for a client that is over the limit, one for each.
3. What is kept of a client is forgotten when it is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._client import Client

__all__ = ["Throttle"]

BURST_SECONDS = 1.0
"""What a client may have saved up, in seconds of its rate; one message, if the rate allows less."""


class Throttle:
    """The buckets of a hub's clients. `resume(client)` is called when one may be read from again."""

    def __init__(self, messages_per_second: float, resume: Callable[[Client], None]) -> None:
        self._resume = resume
        self._interval_seconds = 1 / messages_per_second
        self._burst_seconds = max(BURST_SECONDS, self._interval_seconds)
        # A bucket is one number: when it will be full again, if nothing more comes.
        self._full_at: dict[Client, float] = {}
        self._timers: dict[Client, asyncio.TimerHandle] = {}
        self.pauses = 0

    def count(self, client: Client) -> None:
        """Take one message's worth; pause reading from `client` if it was not there."""
        now = monotonic()
        full_at = max(now, self._full_at.get(client, now)) + self._interval_seconds
        self._full_at[client] = full_at
        # Half a message more: no rounding makes the last one of a burst one too many.
        if full_at - now > self._burst_seconds + self._interval_seconds / 2 and client not in self._timers:
            self.pauses += 1
            client._pause_reading()
            self._wait(client, now)

    def is_holding(self, client: Client) -> bool:
        """Whether `client` is over the limit now."""
        return client in self._timers

    def forget(self, client: Client) -> None:
        """The client is gone."""
        self._full_at.pop(client, None)
        timer = self._timers.pop(client, None)
        if timer is not None:
            timer.cancel()

    def _wait(self, client: Client, now: float) -> None:
        """Look again when there will be room for one message."""
        room_at = self._full_at[client] + self._interval_seconds - self._burst_seconds
        self._timers[client] = asyncio.get_running_loop().call_later(room_at - now, self._look, client)

    def _look(self, client: Client) -> None:
        now = monotonic()
        if self._full_at[client] - now > self._burst_seconds - self._interval_seconds / 2:
            self._wait(client, now)     # a loop's clock is coarser than ours
        else:
            del self._timers[client]
            self._resume(client)
