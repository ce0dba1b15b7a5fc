"""websockets publishing a feed by itself with its `broadcast()`, compressed as it does by default; see ../pace.py.

    python benchmarks/peers/websockets_feed.py --feed ticks.txt --port 8080

permessage-deflate with a window of 4 KiB and memory level 5 for each client (the defaults of the library, with which
each message is compressed once for every client), uvloop, and else its defaults. --plain: without compression.

A peer of the benchmark, not an example.
"""

import argparse
import sys
from pathlib import Path

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

sys.path.append(str(Path(__file__).resolve().parents[1]))

from pace import Feed, make_parser, run_until_stopped

LISTEN_BACKLOG_CONNECTIONS = 4096

connections: set[ServerConnection] = set()


async def listen(connection: ServerConnection) -> None:
    connections.add(connection)
    try:
        await connection.wait_closed()
    finally:
        connections.discard(connection)


async def main(options: argparse.Namespace) -> None:
    feed = Feed(options, lambda: len(connections), lambda message: broadcast(connections, message))
    server = await serve(
        listen, "127.0.0.1", options.port, compression=None if options.plain else "deflate",
        backlog=LISTEN_BACKLOG_CONNECTIONS,
    )
    await run_until_stopped(server.sockets[0].getsockname()[1], feed)
    server.close()


if __name__ == "__main__":
    parser = make_parser("websockets' broadcast(), publishing a feed")
    parser.add_argument("--plain", action="store_true")
    uvloop.run(main(parser.parse_args()))
