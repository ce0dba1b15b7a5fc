"""What a channel costs: many channels with one subscriber each, in one process.

    python benchmarks/channels.py --channels 100000

A hub on a port, a few connections, and `client.subscribe` until there are as many channels as asked for;
each then gets one message. Resident memory is read after a collection: with the connections there and
their read and write paths used once, after the subscribing, and after the messages. So the
connections' own cost is not in the figures. The receiving ends are plain sockets of this process that
read into one buffer. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import socket
import time
from pathlib import Path

import uvloop

import fastbcast

MESSAGES_PER_BATCH = 1000  # published between two looks at what has arrived: nobody falls behind
ARRIVAL_TIMEOUT_SECONDS = 30.0
READ_BUFFER_BYTES = 256 * 1024
UPGRADE = (
    "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def read_rss_bytes() -> int:
    gc.collect()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no Rss in /proc/self/smaps_rollup")


class Receivers:
    """The clients' ends: counts the bytes that arrive, keeps none."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(READ_BUFFER_BYTES)
        self._sockets: list[socket.socket] = []

    async def connect(self, port: int) -> None:
        end = socket.socket()
        end.setblocking(False)
        self._sockets.append(end)
        await self._loop.sock_connect(end, ("127.0.0.1", port))
        await self._loop.sock_sendall(end, UPGRADE.format(host=f"127.0.0.1:{port}").encode())
        response = b""
        while b"\r\n\r\n" not in response:
            received = await self._loop.sock_recv(end, 4096)
            if not received:
                raise RuntimeError("the server closed a connection during its handshake")
            response += received
        if not response.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(f"handshake refused: {response[:40]!r}")
        self._loop.add_reader(end.fileno(), self._read, end)

    def _read(self, end: socket.socket) -> None:
        try:
            count = end.recv_into(self._buffer)
        except BlockingIOError:
            return
        if count == 0:
            self._loop.remove_reader(end.fileno())
        self.received_bytes += count

    async def wait_for(self, total_bytes: int) -> None:
        deadline = time.monotonic() + ARRIVAL_TIMEOUT_SECONDS
        while self.received_bytes < total_bytes:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{total_bytes - self.received_bytes} bytes did not arrive")
            await asyncio.sleep(0)

    def close(self) -> None:
        for end in self._sockets:
            self._loop.remove_reader(end.fileno())
            end.close()


def frame_bytes(payload_bytes: int) -> int:
    """A server's frame of that payload (RFC 6455 section 5.2)."""
    return payload_bytes + (2 if payload_bytes < 126 else 4 if payload_bytes < 65536 else 10)


async def publish_to_each(hub: fastbcast.Hub, receivers: Receivers, names: list[str], payload: bytes) -> None:
    for start in range(0, len(names), MESSAGES_PER_BATCH):
        batch = names[start : start + MESSAGES_PER_BATCH]
        expected_bytes = receivers.received_bytes + len(batch) * frame_bytes(len(payload))
        for name in batch:
            hub.publish(name, payload)
        await receivers.wait_for(expected_bytes)


async def main(channels: int, connections: int, payload_bytes: int) -> None:
    start = time.monotonic()
    hub = fastbcast.Hub()
    payload = bytes(payload_bytes)
    async with fastbcast.serve(hub, "127.0.0.1", 0, subscribe_path=False) as server:
        receivers = Receivers()
        for _ in range(connections):
            await receivers.connect(server.port)
        clients = list(hub.clients())
        for number, client in enumerate(clients):
            client.subscribe(f"warm-up-{number}")
        await publish_to_each(hub, receivers, [f"warm-up-{number}" for number in range(connections)], payload)
        names: list[str] = [""] * channels  # the list is here before; its names are the channels' own cost
        before = read_rss_bytes()

        for number in range(channels):
            names[number] = f"channel-{number}"
            clients[number % connections].subscribe(names[number])
        subscribed = read_rss_bytes()

        await publish_to_each(hub, receivers, names, payload)
        after = read_rss_bytes()
        stats = hub.stats()
        if stats["channels"] != channels + connections or stats["clients"] != connections:
            raise RuntimeError(f"expected {channels} channels and {connections} clients: {stats}")
        receivers.close()
    print(json.dumps({
        "channels": channels,
        "connections": connections,
        "payload_bytes": payload_bytes,
        "seconds": round(time.monotonic() - start, 3),
        "rss_before_bytes": before,
        "rss_subscribed_bytes": subscribed,
        "rss_after_bytes": after,
        "subscribed_bytes_per_channel": round((subscribed - before) / channels, 1),
        "bytes_per_channel": round((after - before) / channels, 1),
        "log_bytes_per_channel": round(stats["log_bytes"] / channels, 1),
    }), flush=True)
    os._exit(0)  # to free all of it says nothing


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="resident memory of a channel with one subscriber")
    parser.add_argument("--channels", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=10)
    parser.add_argument("--size", type=int, default=128, help="payload of the one message, bytes")
    arguments = parser.parse_args()
    uvloop.run(main(arguments.channels, arguments.connections, arguments.size))
