"""fastbcast publishing a feed by itself, for compression.py: see pace.py for how.

    python benchmarks/feeds.py ticks --messages 5000 > ticks.txt
    python benchmarks/feed_server.py --feed ticks.txt --compression window --port 8080
"""

from __future__ import annotations

import argparse
import gc

import uvloop
from pace import Feed, make_parser, run_until_stopped

import fastbcast

LISTEN_BACKLOG_CONNECTIONS = 4096
MAX_CONNECTIONS = 100_000


async def main(options: argparse.Namespace) -> None:
    hub = fastbcast.Hub()
    hub.configure("*", compression_level=options.level)
    channel = hub.channel("benchmark")
    feed = Feed(options, lambda: hub.count_subscribers("benchmark"), channel.publish)
    async with fastbcast.serve(
        hub, "127.0.0.1", options.port, backlog=LISTEN_BACKLOG_CONNECTIONS, compression=options.compression
    ) as server:
        gc.freeze()  # as the command does
        await run_until_stopped(server.port, feed)


if __name__ == "__main__":
    parser = make_parser("fastbcast, publishing a feed")
    parser.add_argument("--compression", choices=fastbcast.options.COMPRESSIONS, default="window")
    parser.add_argument("--level", type=int, default=6)
    uvloop.run(main(parser.parse_args()))
