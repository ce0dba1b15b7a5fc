"""What other threads publish: it waits, with a bound, until the loop's thread takes it.

    put, in any thread --> deque --> take, in the loop's: a slice of time each turn --> publish(channel, frame, key)

Invariants

1. What one thread has put is published in that order.
2. Who finds the queue empty wakes the loop, and nobody else does; what was put before `bind` is taken by that.
3. What waits is at most `max_bytes`: frames, keys, and QUEUED_MESSAGE_BYTES for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ._compact import measure_key
from .exceptions import FastbcastError, PublishQueueFull
from .log import log_event

if TYPE_CHECKING:
    from .typing import Key

QUEUED_MESSAGE_BYTES = 128
"""What a message takes here beside its frame and its key."""


class PublishQueue:
    """The messages of `hub.publish_threadsafe` that have not been published yet."""

    def __init__(
        self, max_bytes: int, slice_seconds: float, publish: Callable[[str, bytes, Key | None], object]
    ) -> None:
        self._max_bytes = max_bytes
        self._slice_seconds = slice_seconds
        self._publish = publish
        self._loop: asyncio.AbstractEventLoop | None = None
        self._messages: deque[tuple[str, bytes, Key | None]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on `loop`, which is running, takes what is put."""
        self._loop = loop
        if self._messages:
            self.take()

    def put(self, channel: str, frame: bytes, key: Key | None) -> None:
        """Queue a message, from any thread. Raises PublishQueueFull, and TypeError if `key` cannot be one."""
        size = _measure(frame, key)
        with self._lock:
            if self._bytes + size > self._max_bytes:
                raise PublishQueueFull(self._bytes, self._max_bytes)
            is_first = not self._messages
            self._messages.append((channel, frame, key))
            self._bytes += size
        if is_first and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to get it
                self._loop.call_soon_threadsafe(self.take)

    def take(self, seconds: float | None = None) -> None:
        """Publish what is queued, for `seconds` or a slice of time; the rest in the next turn."""
        end = time.monotonic() + (self._slice_seconds if seconds is None else seconds)
        while self._messages:
            if time.monotonic() >= end:
                asyncio.get_running_loop().call_soon(self.take)
                break
            with self._lock:
                channel, frame, key = self._messages.popleft()
                self._bytes -= _measure(frame, key)
            try:
                self._publish(channel, frame, key)
            except (FastbcastError, MemoryError) as error:
                log_event(logging.ERROR, "queued_message_lost", channel=channel, reason=str(error) or "no memory")


def _measure(frame: bytes, key: Key | None) -> int:
    return QUEUED_MESSAGE_BYTES + len(frame) + (0 if key is None else measure_key(key))
