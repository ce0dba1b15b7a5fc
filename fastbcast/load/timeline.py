"""A load run as time passes: what happened in each interval, for the display and for the report."""

from __future__ import annotations

import time
from dataclasses import dataclass

from hdrh.histogram import HdrHistogram

from ._board import Board
from .machine import read_socket_bytes, read_usage
from .part import Phase

__all__ = ["HIGHEST_NS", "Interval", "Timeline", "make_histogram"]

HIGHEST_NS = 4_398_046_511_103
"""What the histograms can hold: over an hour. Anything longer counts as that."""
SIGNIFICANT_DIGITS = 2


def make_histogram(counts: dict[int, int]) -> HdrHistogram:
    """Of {value in ns: how often}, as the board has them: its buckets are those of the library."""
    histogram = HdrHistogram(1, HIGHEST_NS, SIGNIFICANT_DIGITS)
    for value_ns, count in counts.items():
        histogram.record_value(value_ns, count)
    return histogram


@dataclass(frozen=True)
class Interval:
    """From `seconds - width_seconds` to `seconds` after the start; a figure that is not known is None."""

    seconds: float
    width_seconds: float
    phase: Phase
    open_clients: int
    published_per_second: float
    deliveries_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    client_cpu_share: float
    server_cpu_share: float | None
    server_rss_bytes: int | None
    socket_bytes: int | None


class Timeline:
    """Looks at a run's board: `look()` gives what happened since the look before, and keeps it if told to."""

    def __init__(self, board: Board, server_pids: tuple[int, ...]) -> None:
        self.intervals: list[Interval] = []
        self._board = board
        self._server_pids = server_pids
        self._start = self._before = time.monotonic()
        self._counts = board.read()
        self._delivery: dict[int, int] = {}
        self._server_cpu: float | None = None

    def look(self) -> Interval:
        now, counts = time.monotonic(), self._board.read()
        delivery = self._board.read_histogram("delivery")
        width = max(now - self._before, 1e-9)
        since = {value: count - self._delivery.get(value, 0) for value, count in delivery.items()}
        histogram = make_histogram({value: count for value, count in since.items() if count})
        usage = read_usage(self._server_pids) if self._server_pids else None
        server_cpu_share = None
        if usage is not None:
            if self._server_cpu is not None:
                server_cpu_share = (usage.cpu_seconds - self._server_cpu) / width
            self._server_cpu = usage.cpu_seconds

        def per_second(name: str) -> float:
            return (counts[name] - self._counts[name]) / width

        def quantile(percent: float) -> float | None:
            return histogram.get_value_at_percentile(percent) / 1e6 if histogram.total_count else None

        interval = Interval(
            seconds=now - self._start,
            width_seconds=width,
            phase=Phase(self._board.phase),
            open_clients=counts["open"],
            published_per_second=per_second("published"),
            deliveries_per_second=per_second("received"),
            p50_ms=quantile(50),
            p99_ms=quantile(99),
            client_cpu_share=per_second("cpu_ns") / 1e9,
            server_cpu_share=server_cpu_share,
            server_rss_bytes=usage.rss_bytes if usage is not None else None,
            socket_bytes=read_socket_bytes(),
        )
        self._before, self._counts, self._delivery = now, counts, delivery
        self.intervals.append(interval)
        return interval
