"""A relay that embeds fastbcast and watches its own event loop: how late do other timers run?

    python benchmarks/timer_server.py --port 8080

A callback is due every 5 ms on a fixed schedule, whatever the loop does: if it is held up for 50 ms, ten
calls are late, by 50 ms, 45 ms and so on, as work would be that comes in meanwhile (one call, re-armed
when it ran, would count the stop once). Only what was due between the first and the last message counts.
On SIGINT it prints a line of JSON: how many, p50, p99 and the greatest lateness.

uvloop rounds a timer to whole milliseconds: lateness below one means "on time".
"""

import argparse
import asyncio
import gc
import json
import math
import signal
import time
from array import array

import uvloop

import fastbcast

PERIOD_SECONDS = 0.005
LISTEN_BACKLOG_CONNECTIONS = 4096


class TimerProbe:
    """Takes the lateness of a periodic timer; `mark` at each message says which of it counts."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lateness_seconds = array("d")
        self._first: int | None = None
        self._last = 0
        self._due = time.monotonic() + PERIOD_SECONDS
        self._arm()

    def mark(self) -> None:
        self._last = len(self._lateness_seconds)
        if self._first is None:
            self._first = self._last

    def report(self) -> dict[str, float]:
        """Percentiles in milliseconds."""
        counted = sorted(self._lateness_seconds[self._first or 0 : self._last])
        if not counted:
            return {"count": 0}
        return {
            "count": len(counted),
            "p50": round(counted[len(counted) // 2] * 1e3, 3),
            "p99": round(counted[math.ceil(len(counted) * 0.99) - 1] * 1e3, 3),
            "max": round(counted[-1] * 1e3, 3),
        }

    def _arm(self) -> None:
        # The loop's clock is the monotonic one, but stands still during a turn.
        self._loop.call_at(self._due, self._on_time)

    def _on_time(self) -> None:
        self._lateness_seconds.append(max(0.0, time.monotonic() - self._due))
        self._due += PERIOD_SECONDS
        self._arm()


async def main(port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    hub = fastbcast.Hub()
    probe = TimerProbe()

    @hub.on_message
    def relay(client: fastbcast.Client, message: str | bytes) -> None:
        probe.mark()
        hub.publish(client.channel, message)

    async with fastbcast.serve(hub, "127.0.0.1", port, backlog=LISTEN_BACKLOG_CONNECTIONS) as server:
        gc.freeze()  # as the command does
        print(f"listening on ws://127.0.0.1:{server.port}/", flush=True)
        await stopped.wait()
        report = probe.report()
    print(json.dumps({"timer_lateness_ms": report}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="relay server that watches its event loop")
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(main(parser.parse_args().port))
