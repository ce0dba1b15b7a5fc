"""A relay between clients that nobody here wrote and the server: it reads along, and can keep a client from reading.

    client <-> Tap (a TappedConnection each) <-> server

What the server sent is kept, and read by the strict Reader of deflate_client.py: it tells in which form each message
came, whatever the client makes of them.
"""

import asyncio
import socket
from contextlib import asynccontextmanager, suppress

from deflate_client import Parameters, Reader, find_header

CHUNK_BYTES = 16 * 1024
RECEIVE_BUFFER_BYTES = 4096     # so that a connection that is stopped is behind after some tens of KiB


def end_writing(sock):
    with suppress(OSError):     # the peer is gone already
        sock.shutdown(socket.SHUT_WR)


class TappedConnection:
    def __init__(self, client, server):
        self.client = client
        self.server = server
        self.request = self.response = b""
        self.may_read = asyncio.Event()
        self.may_read.set()

    def stop(self):
        """Read nothing more of what the server sends."""
        self.may_read.clear()

    def go_on(self):
        self.may_read.set()

    async def run(self):
        """Each way ends with what it reads from, and ends what it writes to."""
        await asyncio.gather(self.pass_up(), self.pass_down())

    async def pass_up(self):
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError):
            while data := await loop.sock_recv(self.client, CHUNK_BYTES):
                self.request += data
                await loop.sock_sendall(self.server, data)
        end_writing(self.server)

    async def pass_down(self):
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError):
            while await self.may_read.wait() and (data := await loop.sock_recv(self.server, CHUNK_BYTES)):
                self.response += data
                await loop.sock_sendall(self.client, data)
        end_writing(self.client)

    @property
    def path(self):
        """The request's target."""
        return self.request.split(b" ", 2)[1].decode()

    def settle(self):
        """The Parameters of this connection, or None."""
        heads = (data.partition(b"\r\n\r\n")[0].decode() for data in (self.request, self.response))
        return Parameters.settle(*(find_header(head, "Sec-WebSocket-Extensions") for head in heads))

    def read(self):
        """Read all that the server has sent: (Reader, Messages)."""
        reader = Reader(self.settle())
        return reader, reader.feed(self.response.partition(b"\r\n\r\n")[2])


class Tap:
    """Listens on `port`; `connections` in the order in which they came."""

    def __init__(self, server_port):
        self.server_port = server_port
        self.connections = []
        self.tasks = set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]

    async def run(self):
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self.listener)
            task = loop.create_task(self.relay(client))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def relay(self, client):
        server = socket.socket()
        with client, server:
            for sock in (client, server):
                sock.setblocking(False)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            await asyncio.get_running_loop().sock_connect(server, ("127.0.0.1", self.server_port))
            self.connections.append(TappedConnection(client, server))
            await self.connections[-1].run()

    def find(self, path):
        """The connection whose request is for `path`."""
        return next(connection for connection in self.connections if connection.path == path)


@asynccontextmanager
async def tapping(server_port):
    tap = Tap(server_port)
    running = asyncio.ensure_future(tap.run())
    try:
        yield tap
        await asyncio.gather(*tap.tasks)     # an error in one of them is an error
    finally:
        for task in (running, *tap.tasks):
            task.cancel()
        await asyncio.gather(running, *tap.tasks, return_exceptions=True)
        tap.listener.close()
