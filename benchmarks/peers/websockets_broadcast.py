"""websockets with its `broadcast()`, the way its documentation recommends to send to many.

    python benchmarks/peers/websockets_broadcast.py --port 8080

Every client gets every message, the sender included; one channel, whatever the path. No compression
(the documentation's advice for a broadcast), uvloop (its advice for speed); the rest is the
default: keepalive pings every 20 s that must be answered within 20 s, no limit on what waits for a client.

A peer of the benchmark, not an example.
"""

import argparse
import asyncio
import signal

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosedError

LISTEN_BACKLOG_CONNECTIONS = 4096

connections: set[ServerConnection] = set()


async def relay(connection: ServerConnection) -> None:
    connections.add(connection)
    try:
        async for message in connection:
            broadcast(connections, message)
    except ConnectionClosedError:  # gone without a CLOSE
        pass
    finally:
        connections.discard(connection)


async def main(port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = await serve(relay, "127.0.0.1", port, compression=None, backlog=LISTEN_BACKLOG_CONNECTIONS)
    host, port = server.sockets[0].getsockname()[:2]
    print(f"listening on ws://{host}:{port}/", flush=True)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="relay server: websockets' broadcast()")
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(main(parser.parse_args().port))
