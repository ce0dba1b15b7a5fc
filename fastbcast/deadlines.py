"""Deadlines that are all the same time away, under one timer.

    oldest  [connection, connection, connection, ...]  newest      one Ticker, for the oldest

What comes later is due later, so the order of coming is the order of being due: adding and discarding cost a
dictionary's entry, and a storm of connections makes no timers.

Invariants

1. The time in which this process was frozen makes nobody overdue, and what has arrived is read before anybody is
   judged: see _ticker.pyx.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from ._ticker import Ticker

__all__ = ["Deadlines", "wait_for"]

MAX_TICK_SECONDS = 1.0
TICKS_PER_LIMIT = 8
"""A process that was frozen has used up at most a quarter of the limit by that."""

_Waiting = TypeVar("_Waiting")
_Result = TypeVar("_Result")


class Deadlines(Generic[_Waiting]):
    """Calls `on_overdue` with whatever is still here after `seconds`. It must not raise."""

    __slots__ = ("_on_overdue", "_seconds", "_ticker", "waiting")

    def __init__(self, seconds: float, on_overdue: Callable[[_Waiting], object]) -> None:
        self._seconds = seconds
        self._on_overdue = on_overdue
        self._ticker = Ticker(min(MAX_TICK_SECONDS, seconds / TICKS_PER_LIMIT), self._expire)
        self.waiting: OrderedDict[_Waiting, float] = OrderedDict()
        """When each is due, the oldest first: for reading."""

    def add(self, waiting: _Waiting) -> None:
        """Begin to wait."""
        self.waiting[waiting] = self._ticker.now() + self._seconds
        self._ticker.start(self._seconds)

    def discard(self, waiting: _Waiting) -> None:
        """What was waited for has come, or is of no interest any more. The timer stays: it may find nothing."""
        self.waiting.pop(waiting, None)

    def _expire(self, now: float) -> None:
        try:
            while self.waiting:
                waiting, due = next(iter(self.waiting.items()))
                if due > now:
                    break
                del self.waiting[waiting]
                self._on_overdue(waiting)
        finally:    # whatever that raised, the others still wait
            if self.waiting:
                self._ticker.start(next(iter(self.waiting.values())) - now)

    def close(self) -> None:
        """Wait for nothing any more."""
        self.waiting.clear()
        self._ticker.stop()


async def wait_for(awaitable: Awaitable[_Result], seconds: float | None) -> _Result:
    """Return what `awaitable` gives, as asyncio.wait_for does, but with a deadline of this module; None: without one.

    At the deadline it is cancelled, and asyncio.TimeoutError raised.
    """
    if seconds is None:
        return await awaitable
    task: asyncio.Future[Any] = asyncio.ensure_future(awaitable)
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    deadlines: Deadlines[asyncio.Future[None]] = Deadlines(seconds, lambda over: over.set_result(None))
    deadlines.add(over)
    try:
        either: list[asyncio.Future[Any]] = [task, over]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():    # also if it was done just now: what it has read would be lost
            result: _Result = task.result()
            return result
        raise asyncio.TimeoutError
    finally:
        deadlines.close()
        over.cancel()
        task.cancel()
