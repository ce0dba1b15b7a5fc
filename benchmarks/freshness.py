"""How old is what a slow reader reads? One publisher, one client that takes 64 KB/s of 1 MB/s.

    python benchmarks/freshness.py --url ws://127.0.0.1:8080/benchmark --receive-buffer-bytes 65536

The server should drop what a slow client cannot take (policy latest, a small limit on lag). What it has
given to the kernel it cannot drop: those bytes are old when they are read. They are counted in
/proc/net/tcp at both ends of the reader's connection (a byte is at both for the moment before its
acknowledgement arrives), every 0.1 s.

Every message begins with the time it was published. Its age is taken when the reader has all of it. The
first seconds fill the buffers and are not counted. Where buffers take longer to fill and empty than the
measurement lasts, ages still grow at its end: `drain_seconds` is what the bytes in flight need at the
reader's speed, the age to come of what is sent now.

One thread, which sleeps between what is due; prints one JSON object.
"""

from __future__ import annotations

import argparse
import math
import socket
import statistics
import struct
import time
from pathlib import Path

from probe import Failure, encode_request, print_result

PUBLISH_PERIOD_SECONDS = 0.01
READ_PERIOD_SECONDS = 0.05
SAMPLE_PERIOD_SECONDS = 0.1
CONNECT_TIMEOUT_SECONDS = 5.0
STAMP = struct.Struct("!dQ")  # time.monotonic(), seq
BINARY_FINAL = 0x82
CLOSE = 0x8


def connect(url: str, receive_buffer_bytes: int) -> tuple[socket.socket, bytes]:
    """Open a WebSocket; returns the socket, non-blocking, and what came behind the response."""
    address, request = encode_request(url)
    connection = socket.socket()
    connection.settimeout(CONNECT_TIMEOUT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_buffer_bytes:  # the kernel doubles what is asked for, to have room for its own overhead
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes // 2)
    connection.connect(address)
    connection.sendall(request)
    response = b""
    while b"\r\n\r\n" not in response:
        received = connection.recv(4096)
        if not received:
            raise Failure("the server closed a connection during its handshake")
        response += received
    head, _, rest = response.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        raise Failure(f"handshake refused: {head[:40]!r}")
    connection.setblocking(False)
    return connection, rest


class Publisher:
    """Sends what is due, and reads its own copies so that it is no slow client itself."""

    def __init__(self, url: str, message_bytes: int, bytes_per_second: float) -> None:
        self._connection, _ = connect(url, 0)
        self._filler = bytes(message_bytes - STAMP.size)
        # A masking key of zeros leaves the payload as it is (RFC 6455 section 5.3).
        self._header = struct.pack("!BBHI", BINARY_FINAL, 0x80 | 126, message_bytes, 0)
        self._messages_per_second = bytes_per_second / message_bytes
        self._unsent = b""
        self.published = 0

    def publish_due(self, elapsed_seconds: float) -> None:
        now = time.monotonic()
        batch = [self._unsent]
        while self.published < elapsed_seconds * self._messages_per_second:
            batch.append(self._header + STAMP.pack(now, self.published) + self._filler)
            self.published += 1
        self._unsent = b"".join(batch)
        try:
            self._unsent = self._unsent[self._connection.send(self._unsent) :]
        except BlockingIOError:
            pass

    def drain(self) -> None:
        try:
            while received := self._connection.recv(1 << 20):
                if len(received) < 1 << 16:
                    return
        except BlockingIOError:
            return
        raise Failure("the server closed the publisher's connection")


class Reader:
    """Takes so many bytes a second and no more; the ages of the messages in them."""

    def __init__(self, url: str, bytes_per_second: float, receive_buffer_bytes: int) -> None:
        self._connection, self._kept = connect(url, receive_buffer_bytes)
        self._bytes_per_second = bytes_per_second
        self._next_seq = 0
        self.own_address: tuple[str, int] = self._connection.getsockname()
        self.server_address: tuple[str, int] = self._connection.getpeername()
        self.receive_buffer_bytes = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.read_bytes = 0
        self.ages: list[float] = []
        self.passed_over = 0

    def start(self) -> None:
        """Count from here on."""
        self.read_bytes = self.passed_over = 0
        self.ages.clear()

    def read_due(self) -> None:
        try:
            received = self._connection.recv(int(self._bytes_per_second * READ_PERIOD_SECONDS))
        except BlockingIOError:
            return
        if not received:
            raise Failure("the server closed the slow reader's connection")
        self.read_bytes += len(received)
        self._kept += received
        self._take_messages(time.monotonic())

    def _take_messages(self, now: float) -> None:
        at = 0
        while len(self._kept) >= at + 4:
            opcode, length, header_bytes = self._kept[at] & 0x0F, self._kept[at + 1], 2
            if length == 126:
                length, header_bytes = int.from_bytes(self._kept[at + 2 : at + 4], "big"), 4
            if opcode == CLOSE:
                code = int.from_bytes(self._kept[at + header_bytes : at + header_bytes + 2], "big")
                raise Failure(f"the server closed the slow reader's connection with {code}")
            if len(self._kept) < at + header_bytes + length:
                break
            if opcode == BINARY_FINAL & 0x0F:
                published, seq = STAMP.unpack_from(self._kept, at + header_bytes)
                self.ages.append(now - published)
                self.passed_over += seq - self._next_seq
                self._next_seq = seq + 1
            at += header_bytes + length
        self._kept = self._kept[at:]


def encode_address(address: tuple[str, int]) -> str:
    """As /proc/net/tcp writes it: the address as a number in the machine's own byte order."""
    number = struct.unpack("=I", socket.inet_aton(address[0]))[0]
    return f"{number:08X}:{address[1]:04X}"


def count_bytes_in_flight(reader: Reader) -> int:
    """Sent by the server and not yet acknowledged, or acknowledged and not yet read."""
    own, server = encode_address(reader.own_address), encode_address(reader.server_address)
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        unsent, unread = (int(number, 16) for number in queues.split(":"))
        if (local, remote) == (server, own):
            total += unsent
        elif (local, remote) == (own, server):
            total += unread
    return total


def measure(arguments: argparse.Namespace) -> dict[str, float | str | None]:
    reader = Reader(arguments.url, arguments.read_rate, arguments.receive_buffer_bytes)
    publisher = Publisher(arguments.url, arguments.size, arguments.publish_rate)
    jobs = {PUBLISH_PERIOD_SECONDS: 0.0, READ_PERIOD_SECONDS: 0.0, SAMPLE_PERIOD_SECONDS: 0.0}  # when each is due
    in_flight: list[int] = []
    is_counting = False
    start = time.monotonic()
    while (elapsed := time.monotonic() - start) < arguments.fill_seconds + arguments.seconds:
        if not is_counting and elapsed >= arguments.fill_seconds:
            is_counting = True
            in_flight.clear()
            reader.start()
        for period, due in jobs.items():
            if elapsed < due:
                continue
            jobs[period] = due + period
            if period == PUBLISH_PERIOD_SECONDS:
                publisher.publish_due(elapsed)
                publisher.drain()
            elif period == READ_PERIOD_SECONDS:
                reader.read_due()
            else:
                in_flight.append(count_bytes_in_flight(reader))
        time.sleep(max(0.0, min(jobs.values()) - (time.monotonic() - start)))
    ages = sorted(reader.ages)
    if not ages or not in_flight:
        raise Failure("the slow reader has read no whole message: there is no age")
    middle_in_flight = statistics.median(in_flight)
    return {
        "seconds": arguments.seconds,
        "published": publisher.published,
        "read_messages": len(ages),
        "passed_over": reader.passed_over,
        "read_bytes_per_second": round(reader.read_bytes / arguments.seconds),
        "receive_buffer_bytes": reader.receive_buffer_bytes,
        "age_p50_seconds": round(statistics.median(ages), 4) if ages else None,
        "age_p99_seconds": round(ages[math.ceil(len(ages) * 0.99) - 1], 4) if ages else None,
        "age_max_seconds": round(ages[-1], 4) if ages else None,
        "in_flight_p50_bytes": round(middle_in_flight),
        "in_flight_max_bytes": max(in_flight),
        "drain_seconds": round(middle_in_flight / arguments.read_rate, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="the age of what a slow reader reads")
    parser.add_argument("--url", required=True)
    parser.add_argument("--size", type=int, default=1000, help="payload of a message, 126 to 65535 bytes")
    parser.add_argument("--publish-rate", type=float, default=1_000_000, help="bytes a second")
    parser.add_argument("--read-rate", type=float, default=64_000, help="bytes a second")
    parser.add_argument("--receive-buffer-bytes", type=int, default=0, help="as the kernel counts; 0: its default")
    parser.add_argument("--fill-seconds", type=float, default=4, help="not counted")
    parser.add_argument("--seconds", type=float, default=5)
    print_result(measure, parser.parse_args())


if __name__ == "__main__":
    main()
