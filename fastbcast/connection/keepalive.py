"""Keepalive: a ping to who has been silent, and the end of who stays silent (RFC 6455 section 5.5.2).

    one timer --tick--> the wheel's next bucket: each client in it is asked how long it has been silent
                            ^                        |  heard of since:  look again when it may be due
                            `---- another bucket ----'  silent:          one ping, and pong_seconds to send anything
                                                        still silent:    CLOSE 1011

Invariants

1. A client is in one bucket from its 101 to its end, and is looked at once or twice in `ping_seconds` (or in a round of
   the wheel, if that is shorter), whatever it sends and however many there are: no task and no timer of its own.
2. Any byte that is received is a sign of life. A client whose socket is full is not pinged: `stall_seconds` is for it.
   One that is not read from, for its inbox or its rate, is pinged for what a reset answers, and not given up.
3. The times are spread, so that clients that came together are not pinged together.
4. Nobody is given up before what has come is read, nor for the time in which this process was frozen: see _ticker.pyx.
"""

from __future__ import annotations

import logging
import math
import random
from typing import TYPE_CHECKING

from .._ticker import Ticker
from ..logging import log_event

if TYPE_CHECKING:
    from ._client import Client

MAX_TICK_SECONDS = 1.0
TICKS_PER_LIMIT = 8
"""A limit of time is seen at most an eighth of it late."""
MAX_BUCKETS = 1024
"""Who is due later than the wheel goes round is looked at once a round: `ping_seconds` may be a year."""
JITTER = 0.2
"""How much of `ping_seconds` may be taken off, at random."""


class Keepalive:
    """The silent clients of one server."""

    def __init__(self, ping_seconds: float, pong_seconds: float) -> None:
        self._ping_seconds = ping_seconds
        self._pong_seconds = pong_seconds
        self._tick_seconds = min(MAX_TICK_SECONDS, ping_seconds / TICKS_PER_LIMIT, pong_seconds / TICKS_PER_LIMIT)
        bucket_count = min(MAX_BUCKETS, math.ceil(ping_seconds / self._tick_seconds) + 2)
        self._buckets: list[set[Client]] = [set() for _ in range(bucket_count)]
        self._position = 0
        self._count = 0
        self._ticker = Ticker(self._tick_seconds, self._tick)

    def add(self, client: Client) -> None:
        """Look after `client` from now on."""
        self._count += 1
        self._look_again(client, self._choose_ping_seconds())
        self._ticker.start()

    def discard(self, client: Client) -> None:
        """Its connection is gone."""
        if client._bucket is not None:
            client._bucket.discard(client)
            client._bucket = None
            self._count -= 1

    def _choose_ping_seconds(self) -> float:
        return self._ping_seconds * (1 - JITTER * random.random())

    def _look_again(self, client: Client, seconds: float) -> None:
        # Less than a whole round: `_tick` empties its bucket, and what comes into it meanwhile would be seen at once.
        count = len(self._buckets)
        ticks = min(max(1, math.ceil(seconds / self._tick_seconds)), count - 1)
        client._bucket = bucket = self._buckets[(self._position + ticks) % count]
        bucket.add(client)

    def _tick(self, now: float) -> None:
        self._position = (self._position + 1) % len(self._buckets)
        bucket = self._buckets[self._position]
        while bucket:
            client = bucket.pop()
            try:
                seconds = client._keep_alive(self._choose_ping_seconds(), self._pong_seconds, now)
            except Exception as error:  # it is one client's: the others are looked at all the same
                log_event(logging.ERROR, "keepalive_failed", exception=error)
                seconds = self._ping_seconds
            if client._bucket is not None:  # it has not ended meanwhile
                self._look_again(client, seconds)
        if self._count:
            self._ticker.start()
