"""aiohttp's server with the loop of its own example: `for ws in sockets: await ws.send_...`.

    python benchmarks/peers/aiohttp_loop.py --port 8080

Every client gets every message, the sender included; one channel, whatever the path. `send_str` waits when a
client's buffer is over its limit, and with it everybody who comes later in the loop. No compression;
uvloop. The example loops over the list itself; this takes a copy, since clients leave while it waits.

A peer of the benchmark, not an example.
"""

import argparse
import asyncio
import signal

import uvloop
from aiohttp import WSMsgType, web

LISTEN_BACKLOG_CONNECTIONS = 4096
SHUTDOWN_SECONDS = 1.0

sockets: list[web.WebSocketResponse] = []


async def relay(request: web.Request) -> web.StreamResponse:
    own = web.WebSocketResponse(compress=False)
    await own.prepare(request)
    sockets.append(own)
    try:
        async for message in own:
            for ws in list(sockets):
                try:
                    if message.type == WSMsgType.TEXT:
                        await ws.send_str(message.data)
                    elif message.type == WSMsgType.BINARY:
                        await ws.send_bytes(message.data)
                except ConnectionError:  # it has just left; its own handler takes it out
                    pass
    finally:
        sockets.remove(own)
    return own


async def main(port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    app = web.Application()
    app.router.add_get("/{path:.*}", relay)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=LISTEN_BACKLOG_CONNECTIONS).start()
    host, port = runner.addresses[0][:2]
    print(f"listening on ws://{host}:{port}/", flush=True)
    await stopped.wait()
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="relay server: a loop over aiohttp's sockets")
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(main(parser.parse_args().port))
