"""Tornado with the loop of its own chat demo: `for waiter in waiters: waiter.write_message(...)`.

    python benchmarks/peers/tornado_chat.py --port 8080

Every client gets every message, the sender included; one channel, whatever the path. `write_message` is not
awaited, as in the demo, so what waits for a client has no limit. No compression, and `set_nodelay`, the
documentation's advice against delays; the rest is the default, on uvloop like the other Python peers.

A peer of the benchmark, not an example.
"""

import argparse
import asyncio
import signal

import uvloop
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler

LISTEN_BACKLOG_CONNECTIONS = 4096


class Relay(WebSocketHandler):
    """One connection. `waiters` is shared by all of them."""

    waiters: set[WebSocketHandler] = set()

    def open(self, *_: str) -> None:
        self.set_nodelay(True)
        self.waiters.add(self)

    def on_close(self) -> None:
        self.waiters.discard(self)

    def on_message(self, message: str | bytes) -> None:
        is_binary = isinstance(message, bytes)
        for waiter in self.waiters:
            try:
                waiter.write_message(message, binary=is_binary)
            except WebSocketClosedError:  # it has just left; its own on_close takes it out
                pass


async def main(port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    sockets = bind_sockets(port, "127.0.0.1", backlog=LISTEN_BACKLOG_CONNECTIONS)
    HTTPServer(Application([("/.*", Relay)])).add_sockets(sockets)
    host, port = sockets[0].getsockname()
    print(f"listening on ws://{host}:{port}/", flush=True)
    await stopped.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="relay server: a loop over Tornado's WebSocket handlers")
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(main(parser.parse_args().port))
