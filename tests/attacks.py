"""What is done to a server: each attack is a function of its port, is over after a second or so, and leaves nothing.

They are blocking code on plain sockets, for a thread of their own. An attacker does not mind being refused.
"""

import contextlib
import random
import resource
import selectors
import socket
import struct
import time

from conftest import seconds
from raw_client import handshake
from reference import BINARY, CLOSE, PING, TEXT, client_frame, close_payload, encode_frame

FLOOD_SECONDS = 0.5
"""How long a flood lasts that nobody ends before."""
HALF_OPEN = 10_000
SPARE_DESCRIPTORS = 200
SOURCES = 20
"""Source addresses that connections are spread over (127.0.0.x): one has some 28,000 ports."""
SECRET = "5ecre7-t0ken"
"""Is in what the attackers send, and must not be in what the server logs."""
PATH = f"/attack?token={SECRET}"


def reset(sock):
    """Close with RST, which leaves no port in TIME_WAIT."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.contextmanager
def connected(port, count, on_connect=None):
    """Give `count` connections; all are reset at the end."""
    socks = []
    try:
        for number in range(count):
            source = (f"127.0.0.{2 + number % SOURCES}", 0)
            socks.append(socket.create_connection(("127.0.0.1", port), seconds(20), source))
            if on_connect is not None:
                on_connect(socks[-1])
        yield socks
    finally:
        for sock in socks:
            reset(sock)


def upgraded(port, count):
    """The same, with the handshake done."""
    return connected(port, count, upgrade)


def upgrade(sock):
    sock.sendall(handshake(PATH))
    head = read_head(sock)
    assert head.startswith(b"HTTP/1.1 101 "), head


def read_head(sock):
    """Read to the end of a response's head; nobody has published yet, so that nothing is behind it."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and (data := wait_for_answer(sock)):
        head += data
    return head


def send(sock, data):
    """Send all of `data`, if the server lets us."""
    with contextlib.suppress(ConnectionError):
        sock.sendall(data)


def wait_for_answer(sock):
    """Read once; returns what the server said, or b"" if it has ended the connection."""
    with contextlib.suppress(ConnectionError):
        return sock.recv(65536)
    return b""


def finish(socks):
    """Send FIN on all, and wait a little for the server to end them."""
    for sock in socks:
        with contextlib.suppress(OSError):      # it has ended the connection already
            sock.shutdown(socket.SHUT_WR)
    flood(socks, b"", is_reading=True)


def flood(socks, data, *, is_reading):
    """Send `data` over and over on all of `socks`, until they are closed or FLOOD_SECONDS are over."""
    end = time.monotonic() + FLOOD_SECONDS
    events = (selectors.EVENT_WRITE if data else 0) | (selectors.EVENT_READ if is_reading else 0)
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            sock.setblocking(False)
            selector.register(sock, events, memoryview(data))
        while selector.get_map() and time.monotonic() < end:
            for key, ready in selector.select(end - time.monotonic()):
                rest = key.data
                try:
                    if ready & selectors.EVENT_READ and not key.fileobj.recv(1 << 20):
                        raise ConnectionResetError
                    if ready & selectors.EVENT_WRITE:
                        rest = rest[key.fileobj.send(rest):]
                        selector.modify(key.fileobj, events, rest or memoryview(data))
                except BlockingIOError:
                    pass
                except ConnectionError:
                    selector.unregister(key.fileobj)


# Before the 101.


def slow_handshake(port):
    """Slowloris: a byte of the head now and then, on many connections, until the server has had enough."""
    head = handshake(PATH, Padding="x" * 10_000)
    with connected(port, 200) as socks:
        waiting = set(socks)
        for number in range(len(head)):
            for sock in waiting:
                send(sock, head[number:number + 1])
            closed = set()
            for sock in waiting:
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    answer = wait_for_answer(sock)
                    assert answer == b"" or answer.startswith(b"HTTP/1.1 408 "), answer
                    closed.add(sock)
            waiting -= closed
            if not waiting:
                return
            time.sleep(0.01)
        raise AssertionError(f"{len(waiting)} slow handshakes were let be")


def header_flood(port):
    """Heads without an end: many header lines, and one endless line."""
    many = b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(100_000))
    for flood_of_headers in (many, b"X-Endless: " + b"x" * 1_000_000):
        with connected(port, 30) as socks:
            for sock in socks:
                send(sock, b"GET / HTTP/1.1\r\nHost: x\r\n" + flood_of_headers)
                wait_for_answer(sock)


def http_flood(port):
    """Requests that ask for the page, and do not read it."""
    with connected(port, 500) as socks:
        for sock in socks:
            send(sock, f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 50)


def half_open(port):
    """As many connections as there may be, on which nothing is sent."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    socks = []
    try:
        with selectors.DefaultSelector() as selector:
            for number in range(min(HALF_OPEN, hard - SPARE_DESCRIPTORS)):
                sock = socket.socket()
                socks.append(sock)
                sock.setblocking(False)
                sock.bind((f"127.0.0.{2 + number % SOURCES}", 0))
                sock.connect_ex(("127.0.0.1", port))
                selector.register(sock, selectors.EVENT_WRITE)
            while selector.get_map():
                for key, _ in selector.select():
                    selector.unregister(key.fileobj)
    finally:
        for sock in socks:
            reset(sock)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Behind the 101.


def ping_flood(port):
    """Pings, whose pongs nobody reads on half of the connections."""
    pings = client_frame(PING, b"x" * 125) * 500
    with upgraded(port, 8) as socks:
        flood(socks[:4], pings, is_reading=False)
        flood(socks[4:], pings, is_reading=True)


def fragment_flood(port):
    """Messages that never end, in the smallest pieces."""
    for piece in (b"", b"x"):
        with upgraded(port, 50) as socks:
            for sock in socks:
                send(sock, client_frame(TEXT, piece, fin=False) + client_frame(0, piece, fin=False) * 20_000)
                wait_for_answer(sock)


def huge_length(port):
    """Frames that say they are huge, and one that is as large as may be and never comes."""
    for length in (2**62, 2**63, 2**64 - 1):
        with upgraded(port, 50) as socks:
            for sock in socks:
                send(sock, struct.pack("!BBQ", 0x80 | BINARY, 0x80 | 127, length) + b"mask")
                wait_for_answer(sock)
    with upgraded(port, 300) as socks:
        for sock in socks:
            send(sock, struct.pack("!BBQ", 0x80 | BINARY, 0x80 | 127, 2**20) + b"mask" + b"x" * 100)


def unfinished_messages(port):
    """Messages as large as may be, but for the last byte."""
    unfinished = struct.pack("!BBQ", 0x80 | BINARY, 0x80 | 127, 2**20) + b"mask" + bytes(2**20 - 1)
    with upgraded(port, 50) as socks:
        for sock in socks:
            send(sock, unfinished)


def masked_garbage(port):
    """Random bytes for frames, random payloads, and frames without a mask."""
    randomness = random.Random(0)
    with upgraded(port, 200) as socks:
        for number, sock in enumerate(socks):
            garbage = randomness.randbytes(2_000)
            send(sock, [garbage, client_frame(TEXT, garbage), encode_frame(TEXT, garbage)][number % 3] * 10)
        finish(socks)


def never_reading(port):
    """Clients of a relay that send messages and do not read what comes back to them."""
    with upgraded(port, 8) as socks:
        flood(socks, client_frame(TEXT, SECRET.encode() * 100) * 50, is_reading=False)


def inbound_flood(port):
    """Clients of a relay that send the smallest messages as fast as they can."""
    with upgraded(port, 4) as socks:
        flood(socks, client_frame(TEXT, b"x") * 5_000, is_reading=True)


def close_storm(port):
    """Connections that end as soon as they are there, in every way, many at the same time."""
    for ending in range(6):
        with connected(port, 400) as socks:
            for number, sock in enumerate(socks):
                # Channels of their own for half of them: those end, too.
                request = handshake(f"/{number}-{'x' * 200}?token={SECRET}" if number % 2 else PATH)
                if ending == 0:
                    continue
                elif ending == 1:
                    send(sock, request[:100])
                elif ending == 2:
                    send(sock, request + client_frame(TEXT, b"x" * 1_000) * 20)
                elif ending == 3:
                    send(sock, request + client_frame(CLOSE, close_payload(1000)))
                elif ending == 4:
                    send(sock, request)
                    sock.close()    # FIN, though the response is not read: RST follows
                elif ending == 5:
                    send(sock, request)
                    read_head(sock)
            if ending == 5:
                finish(socks)


ATTACKS = [
    slow_handshake, header_flood, http_flood, half_open, ping_flood, fragment_flood, huge_length, unfinished_messages,
    masked_garbage, never_reading, inbound_flood, close_storm,
]
