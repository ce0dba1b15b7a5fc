"""The program that `gate.py` runs under callgrind: each figure is counted between two cuts.

`os.getpgrp()` is the cut: callgrind is told to write down, and forget, what it has counted whenever that
function of the C library is entered (`--dump-before=getpgrp`). So start-up, connects, handshakes and the
reading of the clients' sockets are in no figure, one process counts all, and it needs no C of its own.

What depends on time must not be in a count: a slice lasts a minute (in 2 ms callgrind gets through some hundred
sends, so a sweep would be cut in other places each time), and a step runs some times before it is counted, for
the interpreter's and the allocator's caches. What a machine under load adds (a socket that was full for a moment)
only ever makes a count longer: a step is counted COUNTS times, and gate.py takes the shortest.

Prints one JSON object: the package that was counted, and for each cut what ended there.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import uvloop
from harness import Harness, mask_frame

import fastbcast
from fastbcast import _frames

try:
    from fastbcast.log._log import Log
except ImportError:     # a base from before there were folders
    from fastbcast._log import Log

MESSAGE = b"x" * 128
SLICE_SECONDS = 60.0
KEYS = [f"key {number}" for number in range(100)]
WARM_UPS = 10
COUNTS = 3
LOAD_TIMEOUT_SECONDS = 300


class Cuts:
    """Where callgrind's count is cut, and what each part was: a figure and its number of units, or nothing."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, int] | None] = []

    def begin(self) -> None:
        self.parts.append(None)
        os.getpgrp()

    def end(self, figure: str, units: int) -> None:
        self.parts.append((figure, units))
        os.getpgrp()

    def count(
        self, figure: str, units: int, step: Callable[[], object], setup: Callable[[], object] = lambda: None
    ) -> None:
        """Count calls of `step`, which does `units` of the same; `setup` comes before each and is not counted."""
        for _ in range(WARM_UPS):
            setup()
            step()
        for _ in range(COUNTS):
            setup()
            self.begin()
            step()
            self.end(figure, units)


def count_steps(cuts: Cuts, messages: int) -> None:
    """What needs no socket."""
    log = Log()
    hub = fastbcast.Hub()
    hub.configure("conflating", policy="conflate")
    channel = hub.channel("x")
    conflating = hub.channel("conflating")

    def encode() -> None:
        for _ in range(messages):
            _frames.encode(MESSAGE)

    def append() -> None:
        for _ in range(messages):
            log.add(MESSAGE)
        log.drop_before(log.tail)

    def publish() -> None:
        for _ in range(messages):
            channel.publish(MESSAGE)

    def publish_with_a_key() -> None:
        for number in range(messages):
            conflating.publish(MESSAGE, key=KEYS[number % len(KEYS)])

    for step in (encode, append, publish, publish_with_a_key):
        cuts.count(step.__name__.replace("_", " "), messages, step)


def count_sweep(cuts: Cuts, clients: int) -> None:
    harness = Harness(clients, slice_seconds=SLICE_SECONDS)
    for messages in (1, 64):
        step = partial(harness.publish_and_flush, messages, MESSAGE)
        cuts.count(f"send of {messages} in a sweep", clients, step, setup=harness.drain)
    harness.close()


def count_inbound(cuts: Cuts, messages: int) -> None:
    harness = Harness(1, slice_seconds=SLICE_SECONDS)
    step = partial(harness.receive_messages, messages)
    cuts.count("inbound message", messages, step, setup=partial(harness.send_frames, mask_frame(MESSAGE) * messages))
    harness.close()


async def count_end_to_end(cuts: Cuts, clients: int, few: int, many: int) -> None:
    """A relay on a port, and the load client in lock step: the next message comes when all have the one before.

    So the count from the arrival of one message to that of a later one is of whole deliveries.
    """
    hub = fastbcast.Hub(slice_seconds=SLICE_SECONDS)
    figure = f"delivery to {clients}"
    received = 0

    def relay(client: fastbcast.Client, message: bytes | str) -> None:
        nonlocal received
        received += 1
        if received == WARM_UPS:
            cuts.begin()
        elif received == WARM_UPS + few:
            cuts.end(figure, few * clients)
        elif received == WARM_UPS + few + many:
            cuts.end(figure, many * clients)
        hub.publish(client.channel, message)

    hub.on_message(relay)
    async with fastbcast.serve(hub) as server:
        command = [sys.executable, "-m", "fastbcast", "load", f"ws://127.0.0.1:{server.port}/x"]
        command += ["--size", str(len(MESSAGE)), "--clients", str(clients), "--warmup", "0"]
        command += ["--messages", str(WARM_UPS + few + many), "--stall", str(LOAD_TIMEOUT_SECONDS)]
        # The fastbcast that is counted may be another one, from PYTHONPATH; the client is always the installed one.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, env=environment)
        verdict, _ = await process.communicate()
        if process.returncode != 0:
            sys.exit(f"the load client failed ({process.returncode}): {verdict.decode()}")


def main() -> None:
    cuts = Cuts()
    gc.freeze()  # as the command does: what is alive now stays
    for messages in (200, 600):
        count_steps(cuts, messages)
    for clients in (100, 300):
        count_sweep(cuts, clients)
    for messages in (100, 300):
        count_inbound(cuts, messages)
    uvloop.run(count_end_to_end(cuts, clients=4, few=100, many=500))
    uvloop.run(count_end_to_end(cuts, clients=100, few=50, many=150))
    print(json.dumps({"package": fastbcast.__file__, "parts": cuts.parts}))


if __name__ == "__main__":
    main()
