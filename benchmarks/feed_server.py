"""fastbcast publishing a feed by itself, for deflate.py: see pace.py for how.

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


async def main(options: argparse.Namespace) -> None:
    hub = fastbcast.Hub()
    hub.configure("*", compression_level=options.level)
    channel = hub.channel("benchmark")
    feed = Feed(options, lambda: hub.count_subscribers("benchmark"), channel.publish)

    def count_compressed() -> dict[str, float]:
        """Of the hub's own counts: how often a message was compressed, in all lanes, and how long that took."""
        compression = hub.stats()["compression"]
        messages = compression["messages"]
        return {
            "compressions_per_message": messages / max(1, feed.published),
            "compress_us_per_compression": 1e6 * compression["seconds"] / max(1, messages),
            "window_resets": compression["window_resets"],
        }

    async with fastbcast.serve(
        hub, "127.0.0.1", options.port, backlog=LISTEN_BACKLOG_CONNECTIONS, compression=options.compression
    ) as server:
        gc.freeze()  # as the command does
        await run_until_stopped(server.port, feed, count_compressed)


if __name__ == "__main__":
    parser = make_parser("fastbcast, publishing a feed")
    parser.add_argument("--compression", choices=fastbcast.options.COMPRESSIONS, default="window")
    parser.add_argument("--level", type=int, default=6)
    uvloop.run(main(parser.parse_args()))
