"""When every client has read all that was published: known, not guessed, and nothing sleeps.

    1. if clients have sent something: a PING of each, so that the server has handled it
    2. on the server's loop: for whom does a message wait that was published before we began?
    3. a PING of each; when its PONG has come the client has read all that was sent before
    4. again from 2 with those that were behind in 2

A PONG alone would not do: it goes out before what was published in the same turn of the loop, before the backlog
of a client whose socket was full, and before what a limit of the rate holds back.
"""

from __future__ import annotations

import concurrent.futures
import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .fleet import Fleet

__all__ = ["NotDrained", "drain"]

MOST_NAMED = 5
"""Clients that the error names one by one."""


class NotDrained(Exception):
    """Not everybody has read all that was published, or will not: `lacking` says which clients lack what."""

    def __init__(self, clients: int, lacking: dict[str, str], seconds: float | None = None) -> None:
        super().__init__(clients, lacking, seconds)
        self.clients = clients
        self.lacking = lacking
        self.seconds = seconds
        """How long was waited; None: no waiting would have helped."""

    def __str__(self) -> str:
        named = [f"{who}: {what}" for who, what in self.lacking.items()]
        if len(named) > MOST_NAMED:
            named[MOST_NAMED:] = [f"and {len(named) - MOST_NAMED} more"]
        within = "" if self.seconds is None else f" within {self.seconds:g} s"
        return (
            f"{len(self.lacking)} of {self.clients} clients have not read all that was published{within}: "
            f"{'; '.join(named)}"
        )


def drain(fleets: Iterable[Fleet], timeout: float) -> None:
    """Return when all clients of `fleets` have read all that was published so far; else NotDrained, after `timeout` s.

    Who has been closed has read all that it will get, but for those that were evicted: for them it is NotDrained.
    """
    fleets = list(fleets)
    clients = sum(map(len, fleets))
    evicted: dict[str, str] = {}
    end = time.monotonic() + timeout
    behind: dict[Fleet, list[int]] = {}
    waiting: dict[Fleet, list[int] | None] = dict.fromkeys(fleets)  # None: all its clients
    try:
        if any([fleet.take_sent() for fleet in fleets]):
            _ping(waiting, end)
        for server in {fleet.server for fleet in fleets if fleet.server is not None}:
            server.call_within(_left(end), server.hub._publish_queue.take, math.inf)  # of publish_threadsafe
        since = time.monotonic()
        while waiting:
            for fleet, numbers in waiting.items():
                behind[fleet], gone = fleet.find_behind(numbers, since, _left(end))
                evicted |= gone
            _ping(waiting, end)
            waiting = {fleet: numbers for fleet in waiting if (numbers := behind[fleet])}
    except (TimeoutError, concurrent.futures.TimeoutError):
        lacking = evicted
        for fleet in fleets:
            lacking |= fleet.describe_lacking(behind.get(fleet, ()))
        raise NotDrained(clients, lacking, timeout) from None
    if evicted:
        raise NotDrained(clients, evicted)


def _ping(waiting: dict[Fleet, list[int] | None], end: float) -> None:
    """One round trip of each."""
    for answered in [fleet.begin_pings(numbers) for fleet, numbers in waiting.items()]:
        answered.result(_left(end))


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
