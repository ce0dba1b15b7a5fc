"""What tests of the load generator share: a Fleet whose server is the test, and what it hears."""

import base64
import hashlib
import os
import socket
import time
from contextlib import ExitStack, closing, suppress

from conftest import seconds
from reference import TEXT, encode_frame

from fastbcast.load._audit import Kind
from fastbcast.load._board import Board
from fastbcast.load._fleet import Fleet

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
RESPONSE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
PAYLOAD_BYTES = 64


def make_key(key=None):
    """A handshake's key, or the given one, and the answer to it."""
    key = key or base64.b64encode(os.urandom(16))
    return key, base64.b64encode(hashlib.sha1(key + GUID).digest())


def read_client_frames(data):
    """(opcode, payload) of each whole frame a client sent, and the bytes after them."""
    frames = []
    while len(data) >= 2:
        assert data[1] & 0x80, "a client masks its frames"
        length, at = data[1] & 0x7F, 2
        if length >= 126:
            at = 4 if length == 126 else 10
            length = int.from_bytes(data[2:at], "big")
        if len(data) < at + 4 + length:
            break
        mask = data[at : at + 4]
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data[at + 4 : at + 4 + length]))
        frames.append((data[0] & 0x0F, payload))
        data = data[at + 4 + length :]
    return frames, data


class ServerEnd:
    """The server's end of one connection of a Fleet."""

    def __init__(self, fleet, sock, number, accept):
        self.fleet = fleet
        self.sock = sock
        self.number = number
        self.accept = accept
        self.data = b""

    def read(self):
        """What the client has sent by now."""
        try:
            while chunk := self.sock.recv(1 << 20):
                self.data += chunk
        except BlockingIOError:
            pass
        return self.data

    def read_frames(self):
        frames, self.data = read_client_frames(self.read())
        return frames

    def answer(self, *headers, accept=None, after=b""):
        """Let the handshake succeed."""
        lines = b"".join(header + b"\r\n" for header in (*headers, b"Sec-WebSocket-Accept: " + (accept or self.accept)))
        self.sock.sendall(RESPONSE + lines + b"\r\n" + after)

    def send(self, *payloads):
        self.sock.sendall(b"".join(self.frame(payload) for payload in payloads))

    @staticmethod
    def frame(payload):
        return encode_frame(TEXT, payload)

    def send_pieces(self, data, sizes):
        """Send `data` in pieces of these sizes, again and again; the fleet reads after each."""
        sent = 0
        while sent < len(data):
            with suppress(BlockingIOError):     # each piece costs the kernel more than its bytes
                sent += self.sock.send(data[sent : sent + next(sizes)])
            self.fleet.run(0)

    def is_at_end(self):
        """Whether the client has ended the connection."""
        try:
            return not self.sock.recv(1)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


class Loopback:
    """A Fleet over socket pairs. As a context manager it closes all."""

    def __init__(self, board=None, process=0, channels=1, payload_bytes=PAYLOAD_BYTES, capacity=64, **options):
        self.board = board or Board(1, channels)
        self.fleet = Fleet(self.board, process, channels, payload_bytes, capacity, **options)
        self._stack = ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stack.close()
        self.fleet.close()

    def begin(self, kind=Kind.STEADY, at=0, *, offer=b"", **options):
        """A connection whose request, with `offer` in it, is on its way."""
        ours, theirs = socket.socketpair()
        self._stack.enter_context(closing(theirs))
        ours.setblocking(False)
        theirs.setblocking(False)
        key, accept = make_key()
        number = self.fleet.add(ours.detach(), kind, at, b"GET / " + key + b"\r\n" + offer + b"\r\n", accept, **options)
        return ServerEnd(self.fleet, theirs, number, accept)

    def connect(self, kind=Kind.STEADY, at=0, **options):
        end = self.begin(kind, at, **options)
        self.until(lambda: b"\r\n\r\n" in end.read())
        end.data = b""
        end.answer()
        self.until(lambda: self.fleet.is_open(end.number))
        return end

    def until(self, condition):
        deadline = time.monotonic() + seconds(20)
        while not condition():
            self.fleet.run(0.001)
            assert time.monotonic() < deadline, "it did not happen"

    def turn(self):
        """Let the fleet handle what has come to each connection, up to 256 KiB."""
        self.fleet.run(0)

    def publish(self, publisher, count, **options):
        """Publish `count` messages at once, and return their payloads as the server gets them."""
        options.setdefault("in_flight", self.board.slots)
        self.fleet.start(count, judge_all=True, **options)
        frames = []

        def has_all():
            frames.extend(publisher.read_frames())
            return len(frames) == count

        self.until(has_all)
        return [payload for _, payload in frames]

    @property
    def counts(self):
        return self.board.read()
