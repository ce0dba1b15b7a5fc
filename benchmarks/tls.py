"""What TLS costs: the same server and the same clients, with it and without it.

    python benchmarks/tls.py --clients 500 --in-flight 1 --messages 60
    python benchmarks/tls.py --clients 500 --in-flight 64 --messages 6400

Procedure, for `plain` and `tls` in turn, `--rounds` times: a `fastbcast serve --relay` of its own, on one core if there
is a second one; clients in this process connect, 50 at a time; the server's resident memory is read when all are
idle; then the first of them publishes `--in-flight` messages, waits until all clients have them, and again, until
`--messages` are out. A delivery is one message to one client.

The clients are asyncio's and much slower than the server, so there is no figure of deliveries per second: only the
server's processor time for a delivery and a handshake, and its memory for a connection, mean something. Medians of the
rounds. A result is invalid if the rounds differ by more than a third.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import trustme
import uvloop

REQUEST = (
    b"GET /x HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
CONNECTS_AT_ONCE = 50


class Receiver:
    """Counts what all clients have received."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self.wanted_bytes = 0
        self.has_all = asyncio.Event()

    def want(self, more_bytes: int) -> None:
        self.wanted_bytes += more_bytes
        self.has_all.clear()

    def receive(self, size: int) -> None:
        self.received_bytes += size
        if self.received_bytes >= self.wanted_bytes:
            self.has_all.set()


class Client(asyncio.Protocol):
    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.is_open = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(REQUEST)

    def data_received(self, data):
        if self.is_open.done():
            self.receiver.receive(len(data))
        elif data.startswith(b"HTTP/1.1 101 "):
            self.is_open.set_result(None)
        else:  # a client that is refused would wait for ever
            self.is_open.set_exception(RuntimeError(f"the server answered {data[:60]!r}"))


async def measure(options, port, process, tls):
    """Return microseconds of CPU for a handshake and for a delivery, and KiB of memory for a connection."""

    def cpu_seconds():
        times = process.cpu_times()
        return times.user + times.system

    loop = asyncio.get_running_loop()
    receiver = Receiver()
    clients = []
    rss, cpu = process.memory_info().rss, cpu_seconds()
    while len(clients) < options.clients:
        count = min(CONNECTS_AT_ONCE, options.clients - len(clients))
        made = await asyncio.gather(*[
            loop.create_connection(lambda: Client(receiver), "127.0.0.1", port, ssl=tls) for _ in range(count)
        ])
        await asyncio.gather(*[client.is_open for _, client in made])
        clients += [client for _, client in made]
    handshake = (cpu_seconds() - cpu) / options.clients * 1e6
    memory = (process.memory_info().rss - rss) / options.clients / 1024
    frame = bytes([0x82, 0x80 | options.size, 0, 0, 0, 0]) + bytes(options.size)
    cpu = cpu_seconds()
    for _ in range(0, options.messages, options.in_flight):
        receiver.want((2 + options.size) * options.clients * options.in_flight)
        clients[0].transport.write(frame * options.in_flight)
        await receiver.has_all.wait()
    delivery = (cpu_seconds() - cpu) / options.messages / options.clients * 1e6
    return handshake, delivery, memory


def run(options, arguments, tls):
    command = [sys.executable, "-m", "fastbcast", "serve", "--relay", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as server:
        try:
            port = int(re.search(rb":(\d+)/", server.stdout.readline())[1])
            process = psutil.Process(server.pid)
            if len(process.cpu_affinity()) > 1:
                process.cpu_affinity(process.cpu_affinity()[:1])
            return uvloop.run(measure(options, port, process, tls))
        finally:
            server.send_signal(signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description="What TLS costs the server.")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--messages", type=int, default=60)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--size", type=int, default=120, help="bytes of a message, at most 125")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    results = {"plain": [], "tls": []}
    with tempfile.TemporaryDirectory() as folder:
        certificate = authority.issue_cert("127.0.0.1")
        cert, key = Path(folder, "cert.pem"), Path(folder, "key.pem")
        certificate.cert_chain_pems[0].write_to_path(cert)
        certificate.private_key_pem.write_to_path(key)
        for _ in range(options.rounds):
            results["plain"].append(run(options, [], None))
            results["tls"].append(run(options, ["--cert", str(cert), "--key", str(key)], context))
    print("       CPU us a handshake | CPU us a delivery | KiB a connection   (least to most)")
    for name, rounds in results.items():
        cells = [f"{statistics.median(c):.2f} ({min(c):.2f} to {max(c):.2f})" for c in zip(*rounds, strict=True)]
        print(f"{name:6} " + " | ".join(cells))


if __name__ == "__main__":
    main()
