"""Deadlines that are all the same time away, under one timer.

    oldest  [connection, connection, connection, ...]  newest      one timer, for the oldest

What comes later is due later, so the order of coming is the order of being due: adding and discarding cost a
dictionary's entry, and a storm of connections makes no timers.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

_Waiting = TypeVar("_Waiting")


class Deadlines(Generic[_Waiting]):
    """Calls `on_overdue` with whatever is still here after `seconds`. It must not raise."""

    __slots__ = ("_on_overdue", "_seconds", "_timer", "waiting")

    def __init__(self, seconds: float, on_overdue: Callable[[_Waiting], None]) -> None:
        self._seconds = seconds
        self._on_overdue = on_overdue
        self._timer: asyncio.TimerHandle | None = None
        self.waiting: OrderedDict[_Waiting, float] = OrderedDict()
        """When each is due, the oldest first: for reading."""

    def add(self, waiting: _Waiting) -> None:
        """Begin to wait."""
        loop = asyncio.get_running_loop()
        self.waiting[waiting] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._expire)

    def discard(self, waiting: _Waiting) -> None:
        """What was waited for has come, or is of no interest any more. The timer stays: it may find nothing."""
        self.waiting.pop(waiting, None)

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self.waiting:
            waiting, due = next(iter(self.waiting.items()))
            if due > now:
                self._timer = loop.call_at(due, self._expire)
                return
            del self.waiting[waiting]
            self._on_overdue(waiting)

    def close(self) -> None:
        """Wait for nothing any more."""
        self.waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
