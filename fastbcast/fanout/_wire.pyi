import asyncio
from typing import Protocol

from typing_extensions import Self, disjoint_base

class _Owner(Protocol):
    # What this module and the fan-out ask of a client.
    def _direct_overflow(self) -> None: ...
    def _send_failed(self, error: int) -> None: ...
    def _evict(self, cause: str) -> None: ...

@disjoint_base
class Wire:
    def __new__(
        cls, owner: _Owner, transport: asyncio.Transport, fd: int, max_direct_bytes: int
    ) -> Self: ...
    @property
    def is_close_sent(self) -> bool: ...
    @property
    def is_writing_paused(self) -> bool: ...
