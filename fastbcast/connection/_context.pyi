import asyncio
from collections.abc import Callable
from typing import Any

from typing_extensions import Self, disjoint_base

from ..deadlines import Deadlines
from ..deflate._inflate import Inflater
from ..fanout._sweeper import Sweeper
from ..options import HubOptions
from ._client import Client
from ._parser import ReadBuffer
from .partials import Partials
from .paused import PausedClients

@disjoint_base
class Context:
    def __new__(
        cls,
        options: HubOptions,
        sweeper: Sweeper,
        *,
        read_buffer: ReadBuffer,
        partials: Partials,
        paused: PausedClients,
        closing: Deadlines[Client],
        on_connected: Callable[[Client, tuple[str, ...]], None],
        on_message: Callable[[Client, str | bytes], None],
        on_disconnected: Callable[[Client], None],
        find_channel: Callable[[str], Any],
        on_refused: Callable[[str], None],
    ) -> Self: ...
    def bind(self, loop: asyncio.AbstractEventLoop) -> None: ...
    @property
    def max_message_bytes(self) -> int: ...
    @property
    def max_fragments(self) -> int: ...
    @property
    def max_direct_bytes(self) -> int: ...
    @property
    def max_subscriptions(self) -> int: ...
    @property
    def read_buffer(self) -> ReadBuffer: ...
    @property
    def inflater(self) -> Inflater: ...
    @property
    def partials(self) -> Partials: ...
    @property
    def paused(self) -> PausedClients: ...
    @property
    def closing(self) -> Deadlines[Client]: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop | None: ...
    @property
    def pings(self) -> int: ...
