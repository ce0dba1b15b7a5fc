"""The charts of a load run: how latency is distributed, and what happened as time passed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from .chart import Band, Chart, Curve, Scale, Tick, draw_chart, scale_from_zero
from .part import Phase
from .units import write_bytes, write_milliseconds, write_number, write_share

__all__ = ["draw_latency", "draw_timeline", "find_phases", "thin_out"]

MOST_POINTS = 1000
"""Of a line: more than a screen is wide. Of longer runs, several intervals make one point."""
LEAST_DECADES = 1.0
"""The percentile axis reaches the 90th at least."""
ALWAYS_LABELLED_NINES = 3
"""Ticks beyond 99.9 are close to each other on a narrow screen; every other one may go there."""
CROWDED_DECADES = 6.0
"""Above it 50 is too close to 0 there."""

# Of several intervals together: a rate is their mean, anything else the highest.
RATES = ("deliveries_per_second", "published_per_second", "client_cpu_share", "server_cpu_share")
HIGHEST = ("open_clients", "p50_ms", "p99_ms", "server_rss_bytes", "socket_bytes")

TIMELINE: tuple[tuple[str, str, float, tuple[tuple[str, str, Callable[[float], str]], ...]], ...] = (
    ("Deliveries", "a second", 1.0, (
        ("deliveries", "deliveries_per_second", lambda value: write_number(value, "/s")),
    )),
    ("Delivery latency", "ms", 1.0, (("p50", "p50_ms", write_milliseconds), ("p99", "p99_ms", write_milliseconds))),
    ("Processor time", "% of one processor", 100.0, (
        ("server", "server_cpu_share", write_share), ("clients", "client_cpu_share", write_share),
    )),
    ("Memory", "MB", 1e-6, (
        ("server, resident", "server_rss_bytes", write_bytes), ("kernel, TCP", "socket_bytes", write_bytes),
    )),
    ("Connected subscribers", "connections", 1.0, (("connected", "open_clients", write_number),)),
)
"""[title, unit, factor to that unit, [name, figure of an Interval, how its values are written]]"""


def draw_latency(result: dict[str, Any]) -> Chart | None:
    """The curves on an axis where each step to the right leaves a tenth of the messages; None without messages."""
    counts = {name: result[f"{name}_ms"]["count"] for name, points in result["distribution"].items() if points}
    if not counts:
        return None
    decades = max(LEAST_DECADES, *(math.log10(count) for count in counts.values()))

    def place(percent: float, count: int) -> float:
        # Nothing is to the right of 100: the maximum is one of `count`, and stands where one in `count` is.
        return -math.log10(1 - percent / 100) if percent < 100 else math.log10(count)

    def write_percentile(place: float) -> str:
        return f"p{100 - 100 * 10**-place:.7g}"

    percents = [0.0, 50.0, *(100 - 100 * 10.0**-nines for nines in range(1, math.floor(decades + 1e-9) + 1))]
    scale = Scale(0.0, decades, [])
    ticks = []
    for nines, percent in enumerate(percents, start=-1):
        is_minor = nines % 2 == 0 and (nines > ALWAYS_LABELLED_NINES or (percent == 50 and decades > CROWDED_DECADES))
        ticks.append(Tick(scale.place(place(percent, 1)), f"{percent:.10g}", is_minor))
    curves = [
        Curve(name, [(place(percent, counts.get(name, 1)), ms) for percent, ms in points], write_milliseconds)
        for name, points in result["distribution"].items()
    ]
    return draw_chart("Latency", "ms", curves, scale, "percentile", write_percentile, x_ticks=ticks)


def draw_timeline(intervals: Sequence[dict[str, Any]]) -> list[Chart]:
    """One chart below the other, all with the same times."""
    if not intervals:
        return []
    scale = scale_from_zero(intervals[-1]["seconds"])
    bands = [
        Band(name, scale.place(start), scale.place(end) - scale.place(start))
        for name, start, end in find_phases(intervals)
    ]
    points = thin_out(intervals)
    names = {point["seconds"]: Phase(point["phase"]).name.lower() for point in points}

    def write_time(seconds: float) -> str:
        return f"{seconds:,.2f} s, {names[seconds]}"

    charts = []
    for title, unit, factor, figures in TIMELINE:
        curves = [
            Curve(name, [(point["seconds"], _multiply(point[key], factor)) for point in points], _undo(write, factor))
            for name, key, write in figures
        ]
        charts.append(draw_chart(title, unit, curves, scale, "seconds after the start", write_time, bands=bands))
    return charts


def find_phases(intervals: Iterable[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """[name, from, to], as exact as the run was looked at."""
    phases = []
    start = 0.0
    for phase, group in groupby(intervals, key=lambda interval: Phase(interval["phase"])):
        *_, last = group
        phases.append((phase.name.lower(), start, last["seconds"]))
        start = last["seconds"]
    return phases


def thin_out(intervals: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most MOST_POINTS of them, each of several if there are more."""
    size = -(-len(intervals) // MOST_POINTS)
    if size <= 1:
        return list(intervals)
    points = []
    for start in range(0, len(intervals), size):
        group = intervals[start : start + size]
        point = dict(group[-1])
        for key in RATES:
            known = [(one[key], one["width_seconds"]) for one in group if one[key] is not None]
            width = sum(seconds for _, seconds in known)
            point[key] = sum(rate * seconds for rate, seconds in known) / width if known else None
        for key in HIGHEST:
            point[key] = max((one[key] for one in group if one[key] is not None), default=None)
        points.append(point)
    return points


def _multiply(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _undo(write: Callable[[float], str], factor: float) -> Callable[[float], str]:
    return lambda value: write(value / factor)
