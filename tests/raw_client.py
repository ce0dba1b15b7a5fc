"""A client on a bare socket, of WebSocket or of plain HTTP: it reads only when told to, and may send anything."""

import asyncio
import base64
import os
import socket
import ssl
import struct
import weakref
from contextlib import asynccontextmanager, closing

from reference import CLOSE, client_frame, parse_frames

import fastbcast


def handshake(path="/", **headers):
    """The bytes of an opening handshake; a header given as None is left out."""
    fields = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode()


@asynccontextmanager
async def serving(hub, **options):
    """`fastbcast.serve`, but the RawClients go first: the server's close need not wait for their answers."""
    async with fastbcast.serve(hub, ssl=RawClient.server_tls, **options) as server:
        try:
            yield server
        finally:
            for client in list(RawClient.instances):
                client.close()


class RawClient:
    """Use `await RawClient.connect(port, "/path")`; nothing is read but by the read methods."""

    instances = weakref.WeakSet()
    # Contexts of both sides, set by the fixture `tls`.
    server_tls = client_tls = None

    def __init__(self, sock):
        self.instances.add(self)
        self.sock = sock
        self.tls = None
        self.data = b""         # received, not parsed yet
        self.frames = []        # parsed, not returned yet
        self.is_eof = False
        self.head = ""          # of the response to the handshake

    @classmethod
    async def connect_tcp(cls, port, receive_buffer_bytes=None):
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer_bytes is not None:  # before connect: it sets the window's scale
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        client = cls(sock)
        if cls.client_tls is not None:
            await client.start_tls(cls.client_tls)
        return client

    async def start_tls(self, context):
        """The client's side of the TLS handshake; the connection's bytes are records from now on."""
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await loop.sock_sendall(self.sock, self.outgoing.read())
                self.incoming.write(await loop.sock_recv(self.sock, 65536))
            else:
                await loop.sock_sendall(self.sock, self.outgoing.read())
                return

    @classmethod
    async def connect(cls, port, path="/", receive_buffer_bytes=None, **headers):
        client = await cls.connect_tcp(port, receive_buffer_bytes)
        await client.send(handshake(path, **headers))
        client.head = await client.read_head()
        if not client.head.startswith("HTTP/1.1 101 "):
            raise AssertionError(client.head)
        return client

    async def send(self, data):
        await asyncio.get_running_loop().sock_sendall(self.sock, self._encrypt(data))

    def send_now(self, data):
        """Send what the socket certainly has room for."""
        self.sock.send(self._encrypt(data))

    def _encrypt(self, data):
        if self.tls is None:
            return data
        self.tls.write(data)
        return self.outgoing.read()

    async def send_frame(self, opcode, payload=b"", **options):
        await self.send(client_frame(opcode, payload, **options))

    async def receive(self, size=65536):
        """Read once; False at the end of the stream."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self.sock, size)
        except ConnectionError:
            data = b""
        self.is_eof = not data
        self.take(data)
        return not self.is_eof

    def take(self, data):
        """Bytes from the connection."""
        if self.tls is None:
            self.data += data
            return
        self.incoming.write(data)
        try:
            while chunk := self.tls.read(65536):
                self.data += chunk
            self.is_eof = True
        except ssl.SSLZeroReturnError:  # what an end is called once ours was sent
            self.is_eof = True
        except ssl.SSLWantReadError:
            pass

    async def read_head(self):
        while b"\r\n\r\n" not in self.data and await self.receive():
            pass
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        return head.decode()

    async def read_frames(self, count):
        """The next `count` frames, fewer if the stream ends before."""
        while True:
            frames, self.data = parse_frames(self.data)
            self.frames += frames
            if len(self.frames) >= count or self.is_eof:
                result, self.frames = self.frames[:count], self.frames[count:]
                return result
            await self.receive()

    async def read_payloads(self, count):
        return [frame.payload for frame in await self.read_frames(count)]

    async def read_to_end(self):
        """All frames until the stream ends; nothing may be left over."""
        return await self.read_frames(2**60)

    async def read_to_close(self):
        """All frames up to and including the CLOSE (or to the end of the stream)."""
        frames = []
        while (frame := await self.read_frames(1)) and frame[0].opcode != CLOSE:
            frames += frame
        return frames + frame

    async def read_close(self):
        """Read to the end; (code, reason) of the CLOSE, which must be the last frame. (None, "") if there is none."""
        frames = await self.read_to_end()
        closes = [index for index, frame in enumerate(frames) if frame.opcode == CLOSE]
        if not closes:
            return None, ""
        assert closes == [len(frames) - 1], "something follows a CLOSE"
        payload = frames[-1].payload
        return (int.from_bytes(payload[:2], "big"), payload[2:].decode()) if payload else (1005, "")

    def close(self):
        self.sock.close()

    def __del__(self):
        self.close()

    def reset(self):
        """Close with RST: what a crashed machine's peer sees."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def get(path="/", method="GET", **headers):
    """The bytes of a request that is no handshake."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]).encode()


async def answer_of(client):
    """Read to the end of the connection: (status, headers by lower-case name, body)."""
    head = await client.read_head()
    while await client.receive():
        pass
    status_line, *lines = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status_line.split()[1]), headers, client.data


async def ask(port, request):
    """Send `request` on a connection of its own; gives what `answer_of` gives."""
    with closing(await RawClient.connect_tcp(port)) as client:
        await client.send(request)
        return await answer_of(client)
