"""A hub with real clients in one process, driven step by step: what a step costs, and nothing else.

The clients are plain sockets on the loopback device. The loop runs only inside these methods, so whoever
measures decides what is in the measured part and what, like reading the clients' sockets, is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Any

import uvloop

import fastbcast

UPGRADE = (
    b"GET /x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
UPGRADE_WITH_DEFLATE = UPGRADE.replace(b"Host: x\r\n", b"Host: x\r\nSec-WebSocket-Extensions: permessage-deflate\r\n")
READ_BYTES = 1 << 20


def mask_frame(message: bytes | str) -> bytes:
    """A client's frame (RFC 6455 section 5.2), under a mask that is not zero."""
    payload = message.encode() if isinstance(message, str) else message
    size = len(payload)
    opcode = b"\x81" if isinstance(message, str) else b"\x82"
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    mask = b"\x12\x34\x56\x78"
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return opcode + length + mask + masked


class Harness:
    """A hub with `count` real clients of the channel "x", which offer permessage-deflate if there is `compression`."""

    def __init__(self, count: int, policy: str = "evict", compression: str = "off", **options: Any) -> None:
        self.compression = compression
        self.loop = uvloop.new_event_loop()
        self.hub = fastbcast.Hub(**options)
        self.hub.configure("*", policy=policy)
        self.hub.on_message(self._receive)
        self.server = self.loop.run_until_complete(self._serve())
        self.sockets = [self._connect() for _ in range(count)]
        while self.hub.count_subscribers("x") < count:
            self._turn()

    async def _serve(self) -> fastbcast.Server:
        return await fastbcast.serve(self.hub, compression=self.compression)

    def _turn(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.server.port))
        sock.sendall(UPGRADE if self.compression == "off" else UPGRADE_WITH_DEFLATE)
        sock.setblocking(False)
        head = b""
        while b"\r\n\r\n" not in head:
            self._turn()
            with contextlib.suppress(BlockingIOError):
                head += sock.recv(4096)
        return sock

    # What the hub sends.

    def publish_and_flush(self, messages: int, message: bytes) -> None:
        """One turn: `messages` to every client."""
        self.publish_all_and_flush([message] * messages)

    def publish_all_and_flush(self, messages: Sequence[bytes]) -> None:
        """One turn: all of them to every client."""

        async def publish() -> None:
            for number, message in enumerate(messages):
                self.hub.publish("x", message, key=number % 8)
            await self.hub.flushed()

        self.loop.run_until_complete(publish())

    def drain(self) -> None:
        """Read what the clients were sent."""
        for sock in self.sockets:
            with contextlib.suppress(BlockingIOError):
                while len(sock.recv(READ_BYTES)) == READ_BYTES:
                    pass

    # What clients send.

    def send_frames(self, frames: bytes) -> None:
        """Have the first client send them; the hub does not see them yet. They must fit into its socket."""
        if self.sockets[0].send(frames) != len(frames):
            raise RuntimeError(f"{len(frames)} bytes do not fit into a socket")

    def receive_messages(self, count: int) -> None:
        """Run the loop until `count` messages have come to the handler."""
        self._missing = count
        self._arrived = self.loop.create_future()
        self.loop.run_until_complete(self._arrived)

    def _receive(self, client: fastbcast.Client, message: bytes | str) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._arrived.set_result(None)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.loop.run_until_complete(self.server.close())
        self.loop.close()
