"""A Python loop over picows transports: the plain way to broadcast without fastbcast.

    python benchmarks/peers/picows_loop.py --port 8080 --uvloop-transports

Every data frame that a client sends is sent to every client, the sender included, one `send` call
per transport. picows uses aiofastnet's transports by default; ``--uvloop-transports`` chooses
uvloop's own. The event loop is uvloop in both cases. One channel, whatever the path.

A peer of the benchmark, not an example: it handles no fragments and has no limits.
"""

import argparse
import asyncio
import signal

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

DATA_TYPES = (WSMsgType.TEXT, WSMsgType.BINARY)
LISTEN_BACKLOG_CONNECTIONS = 4096


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="relay server: a loop over picows transports")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    transports = parser.add_mutually_exclusive_group()
    transports.add_argument("--aiofastnet", dest="use_aiofastnet", action="store_true", default=True)
    transports.add_argument("--uvloop-transports", dest="use_aiofastnet", action="store_false")
    return parser.parse_args()


class Relay(WSListener):
    """One connection. `transports` is shared by all of them."""

    transports: set[WSTransport] = set()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transports.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.transports.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in DATA_TYPES:
            message_type = frame.msg_type
            payload = frame.get_payload_as_bytes()
            for other in self.transports:
                other.send(message_type, payload)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


async def main(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = await ws_create_server(
        lambda request: Relay(),
        arguments.host,
        arguments.port,
        use_aiofastnet=arguments.use_aiofastnet,
        websocket_handshake_timeout=30,
        backlog=LISTEN_BACKLOG_CONNECTIONS,
    )
    host, port = server.sockets[0].getsockname()[:2]
    print(f"listening on ws://{host}:{port}/", flush=True)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(main(parse_arguments()))
