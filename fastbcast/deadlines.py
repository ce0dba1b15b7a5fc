"""Deadlines that are all the same time away, under one timer.

    oldest  [connection, connection, connection, ...]  newest      one timer, for the oldest

What comes later is due later, so the order of coming is the order of being due: adding and discarding cost a
dictionary's entry, and a storm of connections makes no timers.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

_Waiting = TypeVar("_Waiting")


class Deadlines(Generic[_Waiting]):
    """Calls `on_overdue` with whatever is still here after `seconds`. It must not raise."""

    __slots__ = ("_loop", "_on_overdue", "_seconds", "_timer", "_waiting")

    def __init__(self, seconds: float, on_overdue: Callable[[_Waiting], None]) -> None:
        self._seconds = seconds
        self._on_overdue = on_overdue
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: OrderedDict[_Waiting, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[_Waiting]:
        """The oldest first."""
        return iter(self._waiting)

    def add(self, waiting: _Waiting) -> None:
        """Begin to wait."""
        self._waiting[waiting] = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._expire)

    def discard(self, waiting: _Waiting) -> None:
        """What was waited for has come, or is of no interest any more. The timer stays: it may find nothing."""
        self._waiting.pop(waiting, None)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._waiting:
            waiting, due = next(iter(self._waiting.items()))
            if due > now:
                self._timer = self._loop.call_at(due, self._expire)
                return
            del self._waiting[waiting]
            self._on_overdue(waiting)

    def close(self) -> None:
        """Wait for nothing any more."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
