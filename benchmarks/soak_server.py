"""The server of soak.py: fastbcast embedded in a program that publishes, and tells what it holds when it is asked.

    python benchmarks/soak_server.py --loop uvloop

It prints `listening on ws://...`. For each line on standard input it prints a line of JSON, after a collection of
garbage: what is left then is held by somebody.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import uvloop

import fastbcast

PUBLISH_SECONDS = 0.005
MESSAGES = [b"x" * size for size in (100, 10_000, 200)]
LARGE_MESSAGE = b"x" * 300_000
"""Now and then: most sockets do not take it in one send."""
LARGE_EVERY = 50


def take_sample(hub: fastbcast.Hub) -> dict[str, Any]:
    gc.collect()
    stats = hub.stats()
    return {
        "clients": stats["clients"],
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,    # one is the listing's own
        "tasks": len(asyncio.all_tasks()),
        "objects": len(gc.get_objects()),
        "rss_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "channels": stats["channels"],
        "subscriptions": stats["subscriptions"],
        "disconnects": stats["disconnects"],
    }


async def publish_for_ever(hub: fastbcast.Hub) -> None:
    feed = hub.channel("feed")
    while True:
        for number in range(LARGE_EVERY):
            feed.publish(MESSAGES[number % len(MESSAGES)])
            await asyncio.sleep(PUBLISH_SECONDS)
        feed.publish(LARGE_MESSAGE)


async def main() -> None:
    hub = fastbcast.Hub(close_seconds=1)
    hub.configure("feed", max_lag_bytes=50_000, max_burst_bytes=0)      # who does not read is evicted
    hub.on_message(lambda client, message: client.send(message))
    requests: asyncio.StreamReader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    async with fastbcast.serve(hub, send_buffer_bytes=16_384) as server:
        print(f"listening on ws://127.0.0.1:{server.port}/", flush=True)
        publishing = asyncio.create_task(publish_for_ever(hub))
        while await requests.readline():
            print(json.dumps(take_sample(hub)), flush=True)
        publishing.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    run = {"uvloop": uvloop.run, "asyncio": asyncio.run}[parser.parse_args().loop]
    run(main())
