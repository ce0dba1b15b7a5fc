import asyncio
from collections.abc import Callable

from typing_extensions import disjoint_base

from .typing import Key

QUEUED_MESSAGE_BYTES: int

@disjoint_base
class PublishQueue:
    def __init__(
        self, max_bytes: int, slice_seconds: float, publish: Callable[[str, bytes, Key | None], object]
    ) -> None: ...
    def bind(self, loop: asyncio.AbstractEventLoop) -> None: ...
    def put(self, channel: str, frame: bytes, key: Key | None) -> None: ...
    def take(self, seconds: float | None = ...) -> None: ...
