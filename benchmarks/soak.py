"""Does a server leak? Connects and disconnects in every way, 100,000 times, and what the server holds meanwhile.

    python benchmarks/soak.py                       100,000 connections, at most 10 minutes
    python benchmarks/soak.py --connections 3000    the short form

Procedure

1. `soak_server.py` is started: fastbcast, embedded in a program that publishes to the channel "feed" all the time.
2. Up to 100 connections at once; each ends in one of the ways of `ENDS`, drawn by lot with a fixed seed.
3. Ten times on the way nothing is connected: the server then collects garbage and says what it holds. A row each.
4. Growth is what the last row has more than the one half way: an allocator keeps what the first half has touched.
   Descriptors, tasks, channels and subscriptions may not grow at all, objects and memory by as much as noise is. The
   exit status is 1 if something has grown, if the server wrote something to standard error, if clients are left, or if
   fewer than half of the connections became clients (then there was nothing to leak), 2 if the time was up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop
from harness import UPGRADE, mask_frame

AT_ONCE = 100
SAMPLES = 10
SOURCES = 40
"""Source addresses, 127.0.0.x: whoever closes first keeps the port in TIME_WAIT for a minute."""
PATIENCE_SECONDS = 10
"""How long the server may take until nothing is left of the last connection."""
TOLERATED = {"descriptors": 0, "tasks": 0, "channels": 0, "subscriptions": 0, "objects": 400}
"""What the last sample may have more than the one half way, beside memory."""
TOLERATED_MIB = 2
"""The same of memory: 40 bytes for each of 50,000 connections."""
LEAST_SHARE_OF_CLIENTS = 0.5
"""Of the connections; the others end before their handshake, which four ways of fifteen do."""
MIB = 2**20

CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"
FEED = UPGRADE.replace(b"/x", b"/feed")


HEADER = "connections  seconds  descriptors  tasks   objects  channels  subscriptions  rss MiB"


@dataclass(frozen=True)
class Sample:
    """What the server holds at one time."""

    clients: int
    descriptors: int
    tasks: int
    objects: int
    channels: int
    subscriptions: int
    rss_bytes: int
    disconnects: dict[str, int]

    def is_as_idle_as(self, start: Sample) -> bool:
        return not self.clients and self.descriptors <= start.descriptors and self.tasks <= start.tasks

    def row(self, connections: int, seconds: float) -> str:
        return (
            f"{connections:11,}  {seconds:7.1f}  {self.descriptors:11}  {self.tasks:5}  {self.objects:8,}  "
            f"{self.channels:8}  {self.subscriptions:13}  {self.rss_bytes / MIB:7.2f}"
        )


class Connection:
    """One connection of a client that does as it likes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def read(self, size: int = 65536) -> bytes:
        return await self._loop.sock_recv(self.sock, size)

    async def enter(self, request: bytes = UPGRADE) -> None:
        await self.send(request)
        head = await self.read()
        if not head.startswith(b"HTTP/1.1 101 "):
            raise RuntimeError(f"the server answered {head!r}")

    def set_reset(self) -> None:
        """Have the close send RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def read_to_end(self) -> None:
        while await self.read():
            pass


# How connections end. When the function returns, the socket is closed: FIN, or RST if it holds something unread.


async def close_handshake(connection: Connection) -> None:
    await connection.enter()
    await connection.send(CLOSE)
    await connection.read_to_end()


async def fin(connection: Connection) -> None:
    await connection.enter()


async def rst(connection: Connection) -> None:
    await connection.enter()
    connection.set_reset()


async def half_closed(connection: Connection) -> None:
    await connection.enter()
    connection.sock.shutdown(socket.SHUT_WR)
    await connection.read_to_end()


async def nothing_sent(connection: Connection) -> None:
    if random.random() < 0.5:
        connection.set_reset()


async def half_a_handshake(connection: Connection) -> None:
    await connection.send(UPGRADE[: random.randrange(1, len(UPGRADE))])
    if random.random() < 0.5:
        connection.set_reset()


async def answer_not_read(connection: Connection) -> None:
    await connection.send(UPGRADE + mask_frame("x"))


async def refused(connection: Connection) -> None:
    await connection.send(random.choice([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01garbage\r\n\r\n"]))
    await connection.read_to_end()


async def refused_and_gone(connection: Connection) -> None:
    await connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


async def messages_in_flight(connection: Connection) -> None:
    await connection.enter()
    await connection.send(mask_frame("x" * 100) * random.randrange(1, 200))
    if random.random() < 0.5:
        connection.set_reset()


async def broken_protocol(connection: Connection) -> None:
    await connection.enter()
    await connection.send(b"\xff" * 20)
    await connection.read_to_end()


async def message_cut_off(connection: Connection) -> None:
    await connection.enter()
    message = mask_frame("x" * 1000)
    await connection.send(b"\x01" + message[1:] + message[: random.randrange(1, len(message))])


async def subscribed_then_close(connection: Connection) -> None:
    await connection.enter(FEED)
    await connection.read()
    await connection.send(CLOSE)
    await connection.read_to_end()


async def subscribed_then_rst(connection: Connection) -> None:
    await connection.enter(FEED)
    await connection.read(random.randrange(1, 30_000))
    connection.set_reset()


async def subscribed_and_not_reading(connection: Connection) -> None:
    await connection.enter(FEED)
    await asyncio.sleep(random.random() / 3)


ENDS: list[Callable[[Connection], Awaitable[None]]] = [
    close_handshake, fin, rst, half_closed, nothing_sent, half_a_handshake, answer_not_read,
    refused, refused_and_gone, messages_in_flight, broken_protocol, message_cut_off,
    subscribed_then_close, subscribed_then_rst, subscribed_and_not_reading,
]


async def connect_and_end(port: int, number: int) -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)      # who does not read is behind soon
        sock.bind((f"127.0.0.{2 + number % SOURCES}", 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        with contextlib.suppress(ConnectionError):      # the server was faster
            await random.choice(ENDS)(Connection(sock))


async def connect_and_end_many(port: int, numbers: range) -> None:
    """Make a connection for each number, AT_ONCE at a time."""
    waiting = iter(numbers)

    async def work() -> None:
        for number in waiting:
            await connect_and_end(port, number)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


# The server.


class Server:
    """The process of soak_server.py."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.port = 0

    @classmethod
    async def start(cls, loop_name: str) -> Server:
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("soak_server.py")), "--loop", loop_name,
            stdin=pipe, stdout=pipe, stderr=pipe,
        ))

    async def listen(self) -> None:
        """Learn its port."""
        line = await self._read_line()
        self.port = int(line.rpartition(":")[2].rstrip("/\n"))

    async def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server has ended: {await self.stop()}")
        return line.decode()

    async def ask(self) -> Sample:
        """What the server holds."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return Sample(**json.loads(await self._read_line()))

    async def settle(self, start: Sample) -> Sample:
        """What it holds when nobody is connected: asked until it is as idle as at the start."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            sample = await self.ask()
            if sample.is_as_idle_as(start) or time.monotonic() > end:
                return sample
            await asyncio.sleep(0.05)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> str:
        """End it; returns what it wrote to standard error, and its exit status if that is not 0."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        _, errors = await self._process.communicate()
        status = f"exit status {self._process.returncode}" if self._process.returncode else ""
        return " ".join(filter(None, (errors.decode(), status)))


def find_growth(half_way: Sample, last: Sample, tolerated_rss_bytes: float) -> list[str]:
    """Name what has grown by more than is tolerated."""
    return [
        f"{name} {getattr(half_way, name):,} -> {getattr(last, name):,}"
        for name, tolerated in (TOLERATED | {"rss_bytes": tolerated_rss_bytes}).items()
        if getattr(last, name) - getattr(half_way, name) > tolerated
    ]


def find_idleness(last: Sample, connections: int) -> list[str]:
    """Name what says that the server was not put to the test, or is still at it: no growth would mean nothing."""
    faults = []
    clients = sum(last.disconnects.values())
    if clients < LEAST_SHARE_OF_CLIENTS * connections:
        faults.append(f"only {clients:,} of {connections:,} connections became clients: nothing was measured")
    if last.clients:
        faults.append(f"{last.clients:,} clients are still there {PATIENCE_SECONDS} s after the last has left")
    return faults


async def start_and_soak(connections: int, loop_name: str, tolerated_mib: float) -> list[str]:
    """Print a row for each sample; returns what is wrong with the server."""
    server = await Server.start(loop_name)
    try:
        await server.listen()
        return await soak(server, connections, tolerated_mib)
    finally:
        await server.kill()


async def soak(server: Server, connections: int, tolerated_mib: float) -> list[str]:
    samples = [await server.ask()]
    print(HEADER, samples[0].row(0, 0.0), sep="\n", flush=True)
    begin = time.monotonic()
    step = -(-connections // SAMPLES)
    for first in range(0, step * SAMPLES, step):
        await connect_and_end_many(server.port, range(first, first + step))
        samples.append(await server.settle(samples[0]))
        print(samples[-1].row(first + step, time.monotonic() - begin), flush=True)
    print("ended:", ", ".join(f"{count:,} {cause}" for cause, count in sorted(samples[-1].disconnects.items())))
    errors = await server.stop()
    faults = find_idleness(samples[-1], step * SAMPLES)
    faults += find_growth(samples[SAMPLES // 2], samples[-1], tolerated_mib * MIB)
    return faults + ([f"the server's end: {errors}"] if errors else [])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=600, help="end after so long, with exit status 2")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop", help="the server's event loop")
    parser.add_argument("--tolerated-mib", type=float, default=TOLERATED_MIB, help="growth that is none")
    options = parser.parse_args(arguments)
    if options.connections < SAMPLES:
        parser.error(f"--connections is at least {SAMPLES}, one for each sample")
    random.seed(0)
    try:
        soaking = start_and_soak(options.connections, options.loop, options.tolerated_mib)
        faults = uvloop.run(asyncio.wait_for(soaking, options.seconds))
    except asyncio.TimeoutError:
        print(f"not done after {options.seconds:g} s", file=sys.stderr)
        return 2
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
