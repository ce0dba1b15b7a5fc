"""Ending a server without a reconnect storm: its clients are closed one after the other, spread over some seconds.

    ----|..|.|...|..|.|..|...|.|..|----> seconds     each | closes some: 1012 "service restart; retry-after=5.0"
        each client after its pending frames         who is still behind at the end is closed then

All clients that are closed at once come back at once. Jitter on their side cannot be counted on, so it is here: each
is closed at a time of its own, and told to wait equally long, so that they also come back one after the other.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from .._frames import CloseCode

if TYPE_CHECKING:
    from ..connection._client import Client

TICK_SECONDS = 0.05
"""Closes come this often, at most: a sweep over the clients costs more than a close."""


def make_reason(retry_seconds: float) -> str:
    """Return what a client is told: when to come back. At most 123 bytes (RFC 6455 section 5.5)."""
    return f"service restart; retry-after={retry_seconds:.1f}"


async def close_spread(
    get_clients: Callable[[], list[Client]], is_over: Callable[[], bool], seconds: float, reason: str
) -> None:
    """Close all clients, in no order, evenly over `seconds`; those that come meanwhile too. Returns when is_over().

    Whoever is behind is left for later, and at the end to the caller. Few clients are closed sooner: one each tick.
    Time is counted in ticks: one that comes late, after the process was frozen, does not close all that are left.
    """
    ticks = math.ceil(seconds / TICK_SECONDS)
    for left in range(ticks, 0, -1):
        still_open = [client for client in get_clients() if client.is_open]
        share = math.ceil(len(still_open) / left)
        random.shuffle(still_open)
        for client in still_open:
            if client._close_when_caught_up(CloseCode.SERVICE_RESTART, reason, "going_away"):
                share -= 1
                if share == 0:
                    break
        if is_over():
            return
        await asyncio.sleep(seconds / ticks)
        await asyncio.sleep(0)  # where that took much longer, the loop first sees whose socket has room by now
