"""Interim answers: a 100 or a 103 is skipped until the final answer, a 101 or a refusal (RFC 9110 section 15.2).

picows, up to 2.3 at least, takes any status but 101 for a refusal. So `publish` and `listen` run on a loop whose
connections begin with a protocol that skips them, and then has the transport speak with picows' own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import uvloop

__all__ = ["Loop"]

MAX_INTERIM_BYTES = 64 * 1024
"""Of all answers before the last one; what comes above that is handed on, and is a refusal."""
_INTERIM = re.compile(rb"HTTP/1\.1 1(?!01)[0-9]{2}[ \r]")
_STATUS_BYTES = len(b"HTTP/1.1 101 ")


class Loop(uvloop.Loop):
    """The event loop of a client that opens WebSocket connections only, each to its server itself."""

    async def create_connection(    # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BufferedProtocol], *arguments: Any, **options: Any
    ) -> tuple[Any, asyncio.BufferedProtocol]:
        transport, skipping = await super().create_connection(
            lambda: _Skipping(protocol_factory()), *arguments, **options
        )
        return transport, skipping.protocol


class _Skipping(asyncio.Protocol):
    """Stands before `protocol` until the first bytes of a final answer are there."""

    def __init__(self, protocol: asyncio.BufferedProtocol) -> None:
        self.protocol = protocol
        self._transport: Any = None     # uvloop's, which is like an asyncio.Transport and none
        self._data = b""
        self._skipped_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while _INTERIM.match(self._data) and self._skipped_bytes <= MAX_INTERIM_BYTES:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end and len(head) <= MAX_INTERIM_BYTES:
                return
            self._skipped_bytes += len(head)
            self._data = rest
        if len(self._data) >= _STATUS_BYTES:
            self._hand_over()

    def eof_received(self) -> bool | None:
        self._hand_over()
        return self.protocol.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self.protocol.connection_lost(error)

    def pause_writing(self) -> None:
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        self.protocol.resume_writing()

    def _hand_over(self) -> None:
        """Give `protocol` the transport and what has come of the final answer, as a transport would give it."""
        self._transport.set_protocol(self.protocol)
        left = memoryview(self._data)
        while left and not self._transport.is_closing():    # picows closes it at once if it does not like the answer
            buffer = memoryview(self.protocol.get_buffer(len(left)))
            count = min(len(buffer), len(left))
            buffer[:count] = left[:count]
            left = left[count:]
            self.protocol.buffer_updated(count)
