"""The application's handlers: who is called, in which order, and what happens when one fails.

Invariants

1. Handlers run on the loop's thread, never inside a sweep.
2. The events of one client are handled one at a time and in order: connect, its messages, disconnect.
   While an `async` handler of a client is at work, what follows waits in its Inbox.
3. An Inbox is bounded: at `max_inbox_messages`, or `max_message_bytes` in them, reading from that client is paused, and
   what was read already is not looked at, so it holds at most that, and one message more. A Throttle pauses it, too:
   reading goes on when neither is against it.
4. A handler that raises, whatever it is, closes its client with 1011, and hurts no other: it is logged, and
   `on_error` is called with the client and the exception. SystemExit and KeyboardInterrupt also end the program:
   failures.py.
5. `on_disconnect` is called exactly once for each client, however the handler before it ends.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from .._frames import CloseCode
from ..deadlines import wait_for
from ..failures import end_program, settle
from ..logging import log_event
from .throttle import Throttle

if TYPE_CHECKING:
    from ._client import Client

Handler = Callable[..., Any]


class Inbox:
    """One client's events that wait for an async handler, and the task that works them off."""

    __slots__ = ("event", "events", "is_cancelled", "size")

    def __init__(self, event: str) -> None:
        self.event = event  # whose handler is at work
        self.events: deque[tuple[str, tuple[Any, ...]]] = deque()
        self.size = 0       # of the messages among them, in bytes or characters
        self.is_cancelled = False


class Handlers:
    """The handlers of one hub, one for each event: connect, message, disconnect, error."""

    def __init__(self, max_inbox_messages: int, max_message_bytes: int, max_messages_per_second: float) -> None:
        self._handlers: dict[str, Handler] = {}
        self.throttle = Throttle(max_messages_per_second, self._resume_reading) if max_messages_per_second else None
        self._max_inbox_messages = max_inbox_messages
        self._max_inbox_size = max_message_bytes
        self.inbox_pauses = 0
        self._tasks: dict[asyncio.Task[None], Client] = {}

    def register(self, event: str, handler: Handler) -> None:
        """Set the handler of `event`; TypeError if it cannot be called, ValueError if there is one already."""
        if not callable(handler):
            raise TypeError(f"on_{event} needs a function, got {handler!r}")
        if event in self._handlers:
            raise ValueError(f"on_{event} has a handler already: {self._handlers[event]!r}")
        self._handlers[event] = handler

    def handle(self, event: str, client: Client, *arguments: Any) -> None:
        """Call the handler of `event` now, or as soon as the client's earlier ones are done."""
        handler = self._handlers.get(event)
        if handler is None:
            return
        inbox: Inbox | None = client._inbox
        if inbox is not None:
            inbox.events.append((event, arguments))
            if event == "message":
                inbox.size += len(arguments[0])
                if len(inbox.events) >= self._max_inbox_messages or inbox.size >= self._max_inbox_size:
                    self.inbox_pauses += 1
                    client._pause_reading()
            return
        try:
            result = handler(client, *arguments)
        except BaseException as error:
            self._failed(event, client, error)
        else:
            if result is not None and inspect.isawaitable(result):  # which takes longer than all the rest here
                client._inbox = inbox = Inbox(event)
                self._start(client, self._work_off(client, inbox, result))

    def _start(self, client: Client, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks[task] = client  # the loop itself keeps only a weak reference
        task.add_done_callback(self._tasks.pop)

    async def _work_off(self, client: Client, inbox: Inbox, result: Awaitable[None]) -> None:
        """Await `result`, the first event's, then handle what has come in meanwhile."""
        try:
            while True:
                _, error = await settle(result)
                if error is not None:
                    if inbox.is_cancelled and isinstance(error, asyncio.CancelledError):
                        raise error
                    self._failed(inbox.event, client, error)
                    # Nothing more of a client that failed, but its end is still told.
                    inbox.events = deque(item for item in inbox.events if item[0] == "disconnect")
                    inbox.size = 0
                if not inbox.events:
                    break
                inbox.event, arguments = inbox.events.popleft()
                if inbox.event == "message":
                    inbox.size -= len(arguments[0])
                self._resume_reading(client)
                result = self._call(inbox.event, client, *arguments)
        finally:
            client._inbox = None
            # Cancelled: what waited is dropped, but the client's end is still told.
            for event, arguments in inbox.events:
                if event == "disconnect":
                    self.handle(event, client, *arguments)

    def tell_if_late(self, client: Client) -> None:
        """Log it if a handler of `client`, which has been gone for a while, keeps `on_disconnect` waiting."""
        inbox: Inbox | None = client._inbox
        if inbox is not None and inbox.event != "disconnect":
            log_event(logging.WARNING, "handler_outlives_client", handler=f"on_{inbox.event}")

    def _resume_reading(self, client: Client) -> None:
        """Go on reading from `client`, if there is room in its inbox and it is within its rate."""
        inbox: Inbox | None = client._inbox
        if inbox is not None and (
            len(inbox.events) > self._max_inbox_messages // 2 or inbox.size > self._max_inbox_size // 2
        ):
            return
        if self.throttle is None or not self.throttle.is_holding(client):
            client._resume_reading()

    async def _call(self, event: str, client: Client, *arguments: Any) -> None:
        result = self._handlers[event](client, *arguments)
        if inspect.isawaitable(result):
            await result

    def _failed(self, event: str, client: Client, error: BaseException) -> None:
        log_event(logging.ERROR, "handler_failed", exception=error, handler=f"on_{event}")
        client._close_because(CloseCode.INTERNAL_ERROR, "internal error", "handler_error")
        if "error" in self._handlers:
            try:
                result = self._handlers["error"](client, error)
            except BaseException as failure:
                self._on_error_failed(failure)
            else:
                if inspect.isawaitable(result):
                    self._start(client, self._guard(result))
        end_program(error)

    async def _guard(self, result: Awaitable[None]) -> None:
        _, failure = await settle(result)
        if failure is not None:
            self._on_error_failed(failure)

    @staticmethod
    def _on_error_failed(failure: BaseException) -> None:
        log_event(logging.ERROR, "handler_failed", exception=failure, handler="on_error")
        end_program(failure)

    async def finish(self, concerns: Callable[[Client], bool], seconds: float) -> None:
        """Wait for the handlers at work for clients that it `concerns`; cancel those that take longer than `seconds`.

        The one that called this, and so waits for it, is left alone.
        """
        caller = asyncio.current_task()
        # A cancelled handler is followed by its client's on_disconnect, which gets as long again.
        for _ in range(2):
            try:
                await wait_for(self._wait_for_tasks(concerns, caller), seconds)
            except asyncio.TimeoutError:
                for task in self._tasks_of(concerns, caller):
                    inbox = self._tasks[task]._inbox
                    if inbox is not None:
                        inbox.is_cancelled = True
                    task.cancel()
                await asyncio.sleep(0)

    async def _wait_for_tasks(self, concerns: Callable[[Client], bool], caller: asyncio.Task[Any] | None) -> None:
        while tasks := self._tasks_of(concerns, caller):
            await asyncio.wait(tasks)

    def _tasks_of(
        self, concerns: Callable[[Client], bool], caller: asyncio.Task[Any] | None
    ) -> list[asyncio.Task[None]]:
        return [task for task, client in self._tasks.items() if concerns(client) and task is not caller]
