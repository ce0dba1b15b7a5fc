"""A real server in this process, its event loop in a thread of its own.

    the test's thread, or its loop          the server's thread (uvloop)
        publish(), call()   -- function -->     hub, server, handlers
                            <-- result ----
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import difflib
import inspect
import threading
import weakref
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import uvloop

from ..failures import settle
from ..http._handshake import channel_of
from ..hub import Hub
from ..options import ChannelOptions, HubOptions, ServerOptions
from ..server.server import Server, serve

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..typing import Key, Message
    from .fleet import Fleet

__all__ = ["BroadcastServer"]

CALL_SECONDS = 30.0
"""How long `call` and `publish` wait for the server's thread."""
DRAIN_SECONDS = 30.0

_HUB_SETTINGS = {field.name for field in fields(HubOptions)}
_CHANNEL_SETTINGS = {field.name for field in fields(ChannelOptions)}
_SERVER_SETTINGS = {field.name for field in fields(ServerOptions)}


class BroadcastServer:
    """A hub that is served on a free port of 127.0.0.1: `with BroadcastServer(policy="skip") as server:`.

    hub: your own, made for this; None: a new one. relay: publish what a client sends to all clients of its channel.
    settings: those of HubOptions, of ServerOptions, and of ChannelOptions (for all channels).

    Raises TypeError or ValueError for an unknown or impossible setting, and RuntimeError if it is
    entered again: it is started once.
    """

    def __init__(self, hub: Hub | None = None, *, relay: bool = False, **settings: Any) -> None:
        _check_names(settings)
        hub_settings, channel_settings, self._server_settings = (
            {name: value for name, value in settings.items() if name in names}
            for names in (_HUB_SETTINGS, _CHANNEL_SETTINGS, _SERVER_SETTINGS)
        )
        if hub is not None and hub_settings:
            raise TypeError(f"a hub of your own has its own settings: {', '.join(hub_settings)}")
        self.hub = Hub(**hub_settings) if hub is None else hub
        if channel_settings:
            self.hub.configure("*", **channel_settings)
        if relay:
            self.hub.on_message(self.hub.relay)
        self.server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name="broadcast_server", daemon=True)
        self.fleets: weakref.WeakSet[Fleet] = weakref.WeakSet()
        """Whose clients are connected to this server."""

    def __enter__(self) -> Self:
        if self._thread.ident is not None:
            raise RuntimeError("this BroadcastServer has been started before; make another one")
        self._thread.start()
        self._started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the fleets, then the server (1001 for all other clients), and wait for the end of the thread."""
        if not self._thread.is_alive() or self._loop is None:
            return
        if threading.current_thread() is self._thread:
            raise RuntimeError("this is the server's own thread, which would wait for itself: close it in another one")
        for fleet in list(self.fleets):
            fleet.close()
        with contextlib.suppress(RuntimeError):  # it has ended by itself meanwhile
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CALL_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError(f"the server has not ended within {CALL_SECONDS:g} s: something blocks its event loop")

    @property
    def port(self) -> int:
        if self.server is None:
            raise RuntimeError("the server has not been started: use it in a `with` statement")
        return self.server.port

    @property
    def url(self) -> str:
        """Where the clients of the default channel connect."""
        return f"ws://127.0.0.1:{self.port}/"

    def url_of(self, channel: str) -> str:
        """Where the clients of `channel` connect; ValueError if no path names it."""
        if channel_of(channel) != channel:
            raise ValueError(f"no path names the channel {channel!r}: it is empty, or has a / at an end")
        return self.url + quote(channel)

    def publish(self, channel: str, message: Message, *, key: Key | None = None) -> int:
        """Publish on the server's thread, and return the message's seq. Raises what `hub.publish` raises."""
        seq: int = self.call(partial(self.hub.publish, channel, message, key=key))
        return seq

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function(*arguments)`, plain or async, on the server's thread; return its result, raise what it raises.

        TimeoutError if it takes more than CALL_SECONDS.
        """
        return self.call_within(CALL_SECONDS, function, *arguments)

    def call_within(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
        """The same with another bound."""
        if self._loop is None or not self._thread.is_alive():
            raise RuntimeError("the server is not running" if self._loop is None else "the server has been closed")
        if threading.current_thread() is self._thread:
            raise RuntimeError("this is the server's own thread, which would wait for itself: call the function")

        async def run() -> Any:
            result = function(*arguments)
            return await result if inspect.isawaitable(result) else result

        # What it raises must not get to the loop: SystemExit would end the server.
        future = asyncio.run_coroutine_threadsafe(settle(run()), self._loop)
        try:
            result, error = future.result(seconds)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise TimeoutError(f"{function!r} has not returned within {seconds:g} s on the server's thread") from None
        if error is not None:
            raise error
        return result

    def drain(self, timeout: float = DRAIN_SECONDS) -> None:
        """Return when all clients of all fleets here have read all that was published so far; see Fleet.drain.

        RuntimeError if there is nobody to wait for: other clients than those of fleets are not known here.
        """
        from .drain import drain

        fleets = [fleet for fleet in self.fleets if not fleet.is_slow]
        if not fleets:
            raise RuntimeError("drain() waits for the clients of fleets, slow ones aside, and this server has none")
        drain(fleets, timeout)

    # The server's thread.

    def _run(self) -> None:
        serving = self._serve()
        try:
            uvloop.run(serving)
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)  # there are no descriptors left for an event loop
        finally:
            serving.close()

    async def _serve(self) -> None:
        try:
            self.server = await serve(self.hub, "127.0.0.1", 0, **self._server_settings)
        except BaseException as error:
            self._started.set_exception(error)
            return
        self._loop = asyncio.get_running_loop()
        self._started.set_result(None)
        await self._stop.wait()
        await self.server.close()


def _check_names(settings: dict[str, Any]) -> None:
    known = _HUB_SETTINGS | _CHANNEL_SETTINGS | _SERVER_SETTINGS
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are relay, {', '.join(sorted(known))}"
            raise TypeError(f"there is no setting {name!r}: {hint}")
