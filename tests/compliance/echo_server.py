"""The server under test: it sends each message back to whom it came from, on fastbcast's public API and nothing else.

    echo_server.py              # by client.send()
    echo_server.py --publish    # by a channel of the client's own, compressed as the client may have it

Prints `listening on ws://127.0.0.1:<port>/` and runs until SIGINT or SIGTERM. Sections 9 and 10 of the suite send
messages of 16 MiB, and of 65,537 frames: three limits are raised for them, all else is as it comes.
"""

import argparse
import asyncio
import itertools
import signal

import uvloop

import fastbcast

MIB = 1024 * 1024


def echo_directly(hub):
    @hub.on_message
    def echo(client, message):
        client.send(message)


def echo_by_channels(hub):
    numbers = itertools.count()

    @hub.on_connect
    def join(client):
        name = f"echo-{next(numbers)}"
        client.state["channel"] = hub.channel(name)
        client.subscribe(name)

    @hub.on_message
    def echo(client, message):
        client.state["channel"].publish(message)


async def serve(*, publish):
    hub = fastbcast.Hub(max_message_bytes=64 * MIB, max_direct_bytes=64 * MIB, max_fragments=65537)
    if publish:
        echo_by_channels(hub)
        options = {"compression": "window", "subscribe_path": False}
    else:
        echo_directly(hub)
        options = {}
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with fastbcast.serve(hub, "127.0.0.1", 0, **options) as server:
        print(f"listening on ws://127.0.0.1:{server.port}/", flush=True)
        await stopped.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--publish", action="store_true")
    uvloop.run(serve(**vars(parser.parse_args())))


main()
