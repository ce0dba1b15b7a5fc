"""A relay on Python's `websockets` with one fault planted: what the load generator must find.

    python faulty_relay.py drop 10000      every 10,000th delivery is left out
    ... double N, swap N, damage N         is sent twice, after the one behind it, with one letter changed
    ... delay SECONDS                      the first client gets everything so much later
    ... close N                            the client of the Nth delivery is closed with 1011
    ... unplug N                           who sends the Nth message is closed with 1011
    ... fragment BYTES                     no fault: messages in fragments
    ... deaf N                             reads nothing more of who published N messages
    ... silent N                           does not answer the handshakes after the Nth
    ... push SECONDS                       no relay: sends "tick" to each client, again and again
"""

import asyncio
import contextlib
import itertools
import signal
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

PERIODIC = ("drop", "double", "swap", "damage", "close")


class Relay:
    def __init__(self, fault, value):
        self.fault = fault
        self.value = value
        self.connections = {}
        self.messages = itertools.count(1)
        self.deliveries = itertools.count(1)
        self.held = {}
        self.handshakes = itertools.count(1)
        self.tasks = set()

    async def handle(self, connection):
        self.connections.setdefault(connection.request.path, []).append(connection)
        if self.fault == "push":
            self.start(self.push(connection))
        published = 0
        async for message in connection:
            if next(self.messages) == self.value and self.fault == "unplug":
                self.start(connection.close(1011, "planted"))
            published += 1
            if self.fault == "deaf" and published > self.value:
                await asyncio.Event().wait()
            for other in list(self.connections[connection.request.path]):
                if other is not connection:     # so that a delivery is a subscriber's
                    with contextlib.suppress(ConnectionClosed):
                        await self.deliver(other, message)
        self.connections[connection.request.path].remove(connection)

    async def answer(self, connection, request):
        if self.fault == "silent" and next(self.handshakes) > self.value:
            await asyncio.Event().wait()

    async def deliver(self, connection, message):
        is_due = self.fault in PERIODIC and next(self.deliveries) % self.value == 0
        held = self.held.pop(connection, None)
        if self.fault == "delay" and connection is self.connections[connection.request.path][0]:
            self.start(self.deliver_later(connection, message))
        elif self.fault == "fragment":
            size = int(self.value)
            await connection.send([message[at : at + size] for at in range(0, len(message), size)])
        elif not is_due:
            await connection.send(message)
        elif self.fault == "double":
            await connection.send(message)
            await connection.send(message)
        elif self.fault == "swap":
            self.held[connection] = message
        elif self.fault == "damage":
            await connection.send(message[:-1] + "?")
        elif self.fault == "close":
            self.start(connection.close(1011, "planted"))
        if held is not None:
            await connection.send(held)

    async def deliver_later(self, connection, message):
        await asyncio.sleep(self.value)
        await connection.send(message)

    async def push(self, connection):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.send("tick")
                await asyncio.sleep(self.value)

    def start(self, coroutine):
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


async def main(fault, value):
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    relay = Relay(fault, float(value))
    server = await serve(
        relay.handle, "127.0.0.1", 0, max_size=None, process_request=relay.answer, open_timeout=None
    )
    print(f"listening on ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
