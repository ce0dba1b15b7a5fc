"""The server under test: it sends each message back to whom it came from, on fastbcast's public API and nothing else.

Prints `listening on ws://127.0.0.1:<port>/` and runs until SIGINT or SIGTERM. Sections 9 and 10 of the suite send
messages of 16 MiB, and of 65,537 frames: three limits are raised for them, all else is as it comes.
"""

import asyncio
import signal

import uvloop

import fastbcast

MIB = 1024 * 1024


async def main():
    hub = fastbcast.Hub(max_message_bytes=64 * MIB, max_direct_bytes=64 * MIB, max_fragments=65537)

    @hub.on_message
    def echo(client, message):
        client.send(message)

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with fastbcast.serve(hub, "127.0.0.1", 0) as server:
        print(f"listening on ws://127.0.0.1:{server.port}/", flush=True)
        await stopped.wait()


uvloop.run(main())
