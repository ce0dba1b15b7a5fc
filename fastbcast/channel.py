"""One channel of a hub, and those who wait to know what became of its messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable
from typing import Any

from .deadlines import wait_for
from .fanout._fanout import Fanout
from .typing import Flushed

__all__ = ["Asked", "Channel"]


class Channel(Fanout):
    """One channel of a hub: `publish(message)`, `subscribers`, `seq`. Get it with `hub.channel(name)`."""

    __slots__ = ()

    def flushed(self, seq: int | None = None, *, timeout: float | None = None) -> Coroutine[Any, Any, Flushed]:
        """Await this to know what became of message `seq` (None: the newest) for those who were subscribed then.

        Ask before the next message is published, or ValueError is raised; counting begins with the publish.
        The answer comes when nobody waits for the message any more, or after `timeout` seconds: Flushed(written,
        conflated, skipped, evicted, left, pending), which add up to the subscribers there were. What
        clients have read is not known to anybody here.
        """
        return Asked([self], seq).wait(timeout)


class _Countdown:
    """Is over when it has counted `left` down to 0. Knows nobody, so that nothing keeps who asked."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.over = asyncio.Event()

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.over.set()


class Asked:
    """Somebody waits for what becomes of the newest messages of some channels."""

    def __init__(self, channels: Iterable[Channel], seq: int | None) -> None:
        channels = list(channels)
        self._countdown = _Countdown(len(channels))
        self._flushes = [(channel, channel._flush(seq, self._countdown.count)) for channel in channels]
        for channel in channels:
            channel._check_flushed()

    async def wait(self, timeout: float | None) -> Flushed:
        counts: list[tuple[int, ...]] = [Flushed()]
        try:
            if self._countdown.left:
                with contextlib.suppress(asyncio.TimeoutError):
                    await wait_for(self._countdown.over.wait(), timeout)
        finally:
            counts += [channel._finish_flush(flush) for channel, flush in self._flushes]
        return Flushed(*map(sum, zip(*counts, strict=True)))
