"""The application's handlers: who is called, in which order, and what happens when one fails.

Invariants

1. Handlers run on the loop's thread, never inside a sweep.
2. The events of one client are handled one at a time and in order: connect, its messages, disconnect.
   While an `async` handler of a client is at work, what follows waits in its Inbox.
3. An Inbox is bounded: at `max_inbox_messages` reading from that client is paused, so what it holds is
   at most that, and what one read of the socket had already brought.
4. A handler that raises closes its client with 1011, and hurts no other: the traceback is logged, and
   `on_error` is called with the client and the exception.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from ._client import Client

_logger = logging.getLogger("fastbcast")

Handler = Callable[..., Union[Coroutine[Any, Any, None], None]]

EVENTS = ("connect", "message", "disconnect", "error")


class Inbox:
    """One client's events that wait for an async handler, and the task that works them off."""

    __slots__ = ("events", "task")

    def __init__(self) -> None:
        self.events: deque[tuple[str, tuple[Any, ...]]] = deque()
        self.task: asyncio.Task[None] | None = None


class Handlers:
    """The handlers of one hub, one for each event."""

    def __init__(self, max_inbox_messages: int) -> None:
        self._handlers: dict[str, Handler] = {}
        self._async_events: set[str] = set()
        self._max_inbox_messages = max_inbox_messages
        self._tasks: set[asyncio.Task[None]] = set()

    def register(self, event: str, handler: Handler) -> None:
        """Set the handler of `event`; TypeError if it cannot be called, ValueError if there is one already."""
        if not callable(handler):
            raise TypeError(f"on_{event} needs a function, got {handler!r}")
        if event in self._handlers:
            raise ValueError(f"on_{event} has a handler already: {self._handlers[event]!r}")
        self._handlers[event] = handler
        if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):
            self._async_events.add(event)

    def handle(self, event: str, client: Client, *arguments: Any) -> None:
        """Call the handler of `event` now, or as soon as the client's earlier ones are done."""
        handler = self._handlers.get(event)
        inbox: Inbox | None = client.inbox
        if inbox is not None:
            if handler is not None:
                inbox.events.append((event, arguments))
                if len(inbox.events) >= self._max_inbox_messages:
                    client.pause_reading()
        elif handler is None:
            return
        elif event in self._async_events:
            client.inbox = inbox = Inbox()
            inbox.events.append((event, arguments))
            inbox.task = self._start(self._work_off(client, inbox))
        else:
            try:
                handler(client, *arguments)
            except Exception as error:
                self._failed(event, client, error)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._tasks.discard)
        return task

    async def _work_off(self, client: Client, inbox: Inbox) -> None:
        try:
            while inbox.events:
                event, arguments = inbox.events.popleft()
                if len(inbox.events) <= self._max_inbox_messages // 2:
                    client.resume_reading()
                try:
                    result = self._handlers[event](client, *arguments)
                    if result is not None:
                        await result
                except Exception as error:
                    self._failed(event, client, error)
                    # Nothing more of a client that failed, but its end is still told.
                    inbox.events = deque(item for item in inbox.events if item[0] == "disconnect")
        finally:
            client.inbox = None

    def _failed(self, event: str, client: Client, error: Exception) -> None:
        _logger.error("on_%s failed", event, exc_info=error)
        client.close_because(1011, "internal error", "handler_error")
        on_error = self._handlers.get("error")
        if on_error is None:
            return
        try:
            result = on_error(client, error)
            if result is not None:
                self._start(self._guard(result))
        except Exception:
            _logger.exception("on_error failed")

    @staticmethod
    async def _guard(result: Coroutine[Any, Any, None]) -> None:
        try:
            await result
        except Exception:
            _logger.exception("on_error failed")

    async def finish(self, seconds: float) -> None:
        """Wait for the handlers that are at work; cancel those that take longer than `seconds`."""
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=seconds)
            for task in late:
                task.cancel()
