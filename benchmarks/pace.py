"""How the servers of deflate.py publish a feed, each on its own event loop: the same messages at the same times.

No load generator is the publisher: what a server spends on receiving and parsing messages is in no figure. As a server
that reads a feed from somewhere else does, it publishes what has gathered, `burst` messages in one turn of the loop,
and gives way. Nothing is caught up: a server that cannot keep the rate has a lower one, and its figures stand.

It begins when `clients` are there, and ends with the first burst at which some of them are gone, `spare` aside. The
processor's time is taken at each burst, so that neither the connecting nor the leaving is in it.

Standard library only: the peers' interpreters import it, too.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

POLL_SECONDS = 0.02


def make_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--feed", type=Path, required=True, help="a file with one message a line; it is repeated")
    parser.add_argument("--rate", type=float, default=100, help="messages a second")
    parser.add_argument("--burst", type=int, default=8, help="messages in one turn of the loop")
    parser.add_argument("--await-clients", type=int, default=1, help="begin when so many are there")
    parser.add_argument("--spare", type=int, default=0, help="go on while no more than these are gone")
    return parser


class Feed:
    """Publishes a file's messages; `count_clients` and `publish` are the server's."""

    def __init__(
        self, options: argparse.Namespace, count_clients: Callable[[], int], publish: Callable[[str], object]
    ) -> None:
        self.options = options
        self.count_clients = count_clients
        self.publish = publish
        self.published = 0
        self.publishing_ns = 0
        self.marks: list[tuple[int, int, int]] = []

    async def run(self) -> None:
        options = self.options
        messages = itertools.cycle(options.feed.read_text(encoding="utf-8").splitlines())
        loop = asyncio.get_running_loop()
        while self.count_clients() < options.await_clients:  # noqa: ASYNC110 (each server knows it in its own way)
            await asyncio.sleep(POLL_SECONDS)
        due = loop.time()
        while self.count_clients() >= options.await_clients - options.spare:
            self.marks.append((self.published, time.process_time_ns(), self.publishing_ns))
            start_ns = time.thread_time_ns()
            for message in itertools.islice(messages, options.burst):
                self.publish(message)
            self.publishing_ns += time.thread_time_ns() - start_ns
            self.published += options.burst
            due = max(loop.time(), due + options.burst / options.rate)
            await asyncio.sleep(due - loop.time())

    def report(self) -> dict[str, float | None]:
        """Of all bursts but the last, whose sends may not be over."""
        first, last = (self.marks[0], self.marks[-1]) if self.marks else ((0, 0, 0), (0, 0, 0))
        messages, cpu_ns, publishing_ns = (end - start for start, end in zip(first, last, strict=True))
        return {
            "published": messages,
            "cpu_us_per_message": cpu_ns / 1000 / messages if messages else None,
            "publish_us_per_message": publishing_ns / 1000 / messages if messages else None,
        }


async def run_until_stopped(port: int, feed: Feed, count_more: Callable[[], dict[str, float]] = dict) -> None:
    """Say that the server is there, publish, and print the report at SIGINT, with what the server has counted."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    task = asyncio.create_task(feed.run())
    print(f"listening on ws://127.0.0.1:{port}/", flush=True)
    await stopped.wait()
    task.cancel()
    print(json.dumps({**feed.report(), **count_more()}), flush=True)
