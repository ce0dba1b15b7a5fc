"""Starlette on uvicorn, with the connection manager that FastAPI's documentation shows.

    python benchmarks/peers/starlette_loop.py --port 8080

Every client gets every message, the sender included; one channel, whatever the path. `send_text` waits when a
client's buffer is full, and with it everybody who comes later in the loop. uvicorn as it comes with
uvloop, httptools and websockets. The documented loop runs over the list itself; this takes a copy, since
clients leave while it waits.

A peer of the benchmark, not an example.
"""

import argparse
import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

LISTEN_BACKLOG_CONNECTIONS = 4096
SHUTDOWN_SECONDS = 1

connections: list[WebSocket] = []


async def broadcast(message: dict[str, object]) -> None:
    for connection in list(connections):
        try:
            if message.get("text") is not None:
                await connection.send_text(message["text"])
            else:
                await connection.send_bytes(message["bytes"])
        except (RuntimeError, WebSocketDisconnect):  # it has just left; its own handler takes it out
            pass


async def relay(websocket: WebSocket) -> None:
    await websocket.accept()
    connections.append(websocket)
    try:
        while (message := await websocket.receive())["type"] == "websocket.receive":
            await broadcast(message)
    finally:
        connections.remove(websocket)


def main(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=LISTEN_BACKLOG_CONNECTIONS)
    host, port = listener.getsockname()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # The socket listens already: who comes before uvicorn accepts waits in its queue.
        print(f"listening on ws://{host}:{port}/", flush=True)
        yield

    app = Starlette(routes=[WebSocketRoute("/{path:path}", relay)], lifespan=lifespan)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        backlog=LISTEN_BACKLOG_CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has shut down
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="relay server: a loop over Starlette's WebSockets, on uvicorn")
    parser.add_argument("--port", type=int, default=0)
    main(parser.parse_args().port)
