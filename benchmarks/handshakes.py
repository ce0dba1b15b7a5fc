"""A storm of handshakes: how many a second, and what each costs the server.

    python benchmarks/handshakes.py --url ws://127.0.0.1:8080/benchmark --server-pid 4711

Connections are opened as fast as they are answered, `--window` of them under way at any time, until there are
`--batch`. Then all are reset at once, and when the server has come to rest the next batch begins. Only the time and the
server's CPU time while a batch opens count: `cpu_us` is per handshake, user and system time of all threads (their
nanoseconds in /proc/PID/task/*/schedstat). `handshake_ms` is from connect(2) to the 101.

With `--rate` one more connection publishes so many messages a second meanwhile, and every connection must have
every message from its first one to the last: `missing` counts those that do not.

The result is about the server only if the client was not the limit: below 95 % of the server's core it is not valid.
One thread, one epoll; prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import select
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from probe import MINIMAL, Failure, encode_request, print_result

TIMEOUT_SECONDS = 60.0
REST_SECONDS = 0.05
"""A server that used no CPU for so long has come to rest."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger."""
PAYLOAD_BYTES = 8
FRAME_BYTES = 2 + PAYLOAD_BYTES
BINARY_FINAL = 0x82
CHROMIUM = (
    "Connection: Upgrade",
    "Pragma: no-cache",
    "Cache-Control: no-cache",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Upgrade: websocket",
    "Origin: http://127.0.0.1:8080",
    "Sec-WebSocket-Version: 13",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-US,en;q=0.9",
    "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
)


def read_cpu_ns(pid: int) -> int:
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat"))


class Connection:
    """One of the crowd: what it was sent, its handshake's response first."""

    __slots__ = ("began", "is_open", "received", "request", "sock")

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self.began = time.monotonic()
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if self.sock.connect_ex(address) not in (0, errno.EINPROGRESS):
            raise Failure("cannot connect")
        self.request = request
        self.is_open = False
        self.received = b""
        self.write()

    def write(self) -> None:
        """Send the request, as soon as there is a connection: on loopback that is at once, or the listener is full."""
        with contextlib.suppress(BlockingIOError):
            self.sock.send(self.request)
            self.request = b""

    def reset(self) -> None:
        """Close with RST, so that no port waits in TIME_WAIT."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()

    def read(self) -> bool:
        """Take what is there; whether that was the end of the handshake."""
        data = self.sock.recv(65536)
        if not data:
            raise Failure("the server closed a connection")
        self.received += data
        if self.is_open or b"\r\n\r\n" not in self.received:
            return False
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise Failure(f"handshake refused: {head[:40]!r}")
        self.is_open = True
        return True

    def misses(self, last: int) -> bool:
        """Whether it lacks a message between its first and number `last`."""
        numbers = [int(self.received[at + 2 : at + FRAME_BYTES]) for at in range(0, len(self.received), FRAME_BYTES)]
        return not numbers or numbers != list(range(numbers[0], last + 1))


class Storm:
    def __init__(self, arguments: argparse.Namespace) -> None:
        headers = CHROMIUM if arguments.chromium else MINIMAL
        self._address, self._request = encode_request(arguments.url, headers)
        self._window = arguments.window
        self._rate = arguments.rate
        self._pid = arguments.server_pid
        self._epoll = select.epoll()
        self._crowd: dict[int, Connection] = {}
        self._publisher: Connection | None = None
        self._published = 0
        self._connecting = 0
        self._opened = 0
        self.seconds = 0.0
        self.cpu_ns = 0
        self.handshake_seconds: list[float] = []
        self.missing = 0

    def _connect(self) -> Connection:
        connection = Connection(self._address, self._request)
        fd = connection.sock.fileno()
        self._crowd[fd] = connection
        self._epoll.register(fd, select.EPOLLOUT if connection.request else select.EPOLLIN)
        self._connecting += 1
        return connection

    def _turn(self, timeout: float) -> None:
        for fd, _ in self._epoll.poll(timeout):
            connection = self._crowd[fd]
            if connection.request:
                connection.write()
                self._epoll.modify(fd, select.EPOLLOUT if connection.request else select.EPOLLIN)
            elif connection.read():
                self.handshake_seconds.append(time.monotonic() - connection.began)
                self._connecting -= 1
                self._opened += 1

    def _publish(self) -> None:
        assert self._publisher is not None
        self._published += 1
        # A masking key of zeros leaves the payload as it is (RFC 6455 section 5.3).
        header = struct.pack("!BBI", BINARY_FINAL, 0x80 | PAYLOAD_BYTES, 0)
        self._publisher.sock.send(header + b"%08d" % self._published)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise Failure(f"not within {TIMEOUT_SECONDS:g} s: {what}")
            self._turn(0.01)

    def run_batch(self, count: int) -> None:
        """Open `count` connections, and reset them."""
        if self._rate:
            self._publisher = self._connect()
            self._wait(lambda: self._opened == 1, "the publisher's handshake")
            self.handshake_seconds.pop()
        until = self._opened + count
        began, cpu_ns, first = time.monotonic(), read_cpu_ns(self._pid), self._published
        while self._opened < until:
            while self._connecting < self._window and self._opened + self._connecting < until:
                self._connect()
            if self._rate and self._published - first < (time.monotonic() - began) * self._rate:
                self._publish()
            self._turn(1 / self._rate if self._rate else 1.0)
            if time.monotonic() - began > TIMEOUT_SECONDS:
                raise Failure(f"{count} handshakes took more than {TIMEOUT_SECONDS:g} s")
        self.seconds += time.monotonic() - began
        self.cpu_ns += read_cpu_ns(self._pid) - cpu_ns
        if self._rate:
            self._publish()
            tail = b"%08d" % self._published
            try:
                self._wait(lambda: all(c.received.endswith(tail) for c in self._crowd.values()), "the last message")
            except Failure:
                pass    # who lacks it is counted
            self.missing += sum(connection.misses(self._published) for connection in self._crowd.values())
        for connection in self._crowd.values():
            connection.reset()
        self._crowd.clear()
        self._opened = 0
        self._rest()

    def _rest(self) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        before = read_cpu_ns(self._pid)
        while time.monotonic() < deadline:
            time.sleep(REST_SECONDS)
            now = read_cpu_ns(self._pid)
            if now - before < REST_SECONDS * 1e9 / 50:
                return
            before = now
        raise Failure("the server does not come to rest")


def measure(arguments: argparse.Namespace) -> dict[str, float | list[str]]:
    storm = Storm(arguments)
    storm.run_batch(min(arguments.batch, 200))  # warm-up
    storm.seconds, storm.cpu_ns = 0.0, 0
    storm.handshake_seconds.clear()
    client_seconds = time.process_time()
    began = time.monotonic()
    while time.monotonic() - began < arguments.seconds:
        storm.run_batch(arguments.batch)
    count = len(storm.handshake_seconds)
    waits = sorted(storm.handshake_seconds)
    if not count or not storm.cpu_ns:
        raise Failure(f"nothing was measured: {count} handshakes, {storm.cpu_ns} ns of the server's processor time")
    share = storm.cpu_ns / 1e9 / storm.seconds
    notes = [f"INVALID as a limit of the server: it used {share:.0%} of its core"] if share < 0.95 else []
    return {
        "seconds": storm.seconds,
        "handshakes": count,
        "handshakes_per_second": count / storm.seconds,
        "cpu_us": storm.cpu_ns / 1000 / count,
        "server_share": share,
        "client_share": (time.process_time() - client_seconds) / (time.monotonic() - began),
        "handshake_p50_ms": waits[count // 2] * 1000,
        "handshake_p99_ms": waits[math.ceil(count * 0.99) - 1] * 1000,
        "missing": storm.missing,
        "notes": notes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="a storm of handshakes")
    parser.add_argument("--url", required=True)
    parser.add_argument("--server-pid", type=int, required=True)
    parser.add_argument("--batch", type=int, default=3000, help="connections that are open before they are reset")
    parser.add_argument("--window", type=int, default=64, help="handshakes under way")
    parser.add_argument("--seconds", type=float, default=4, help="time for all batches")
    parser.add_argument("--rate", type=float, default=0, help="messages a second to all meanwhile")
    parser.add_argument("--chromium", action="store_true", help="send the headers that a browser sends")
    print_result(measure, parser.parse_args())


if __name__ == "__main__":
    main()
