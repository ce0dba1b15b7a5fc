"""A chart of a report: where its lines and ticks are. The template draws it.

Places are in thousandths of the plot, from its top left. So it is drawn as wide as the screen is, and its text keeps
its size: text is HTML at these places, not part of the drawing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .units import write_short

__all__ = ["Band", "Chart", "Curve", "Line", "Scale", "Tick", "draw_chart", "scale_from_zero", "scale_values"]

SIZE = 1000
MOST_TICKS = 5
LOGARITHMIC_ABOVE = 20.0
"""Where the largest value is so many times the median, a line on a linear scale would lie on the floor."""

Point = tuple[float, "float | None"]


@dataclass(frozen=True)
class Tick:
    place: int
    text: str
    is_minor: bool = False
    """Left out where there is little room."""


@dataclass(frozen=True)
class Scale:
    """From a value to its place between `low` and `high`."""

    low: float
    high: float
    ticks: list[tuple[float, str]]
    is_logarithmic: bool = False

    def place(self, value: float) -> int:
        low, high = self.low, self.high
        if self.is_logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return round(SIZE * min(1.0, max(0.0, (value - low) / (high - low))))


@dataclass(frozen=True)
class Curve:
    """What is to be drawn: [x, y]; a y of None was not measured, and the line has a gap there."""

    name: str
    points: Sequence[Point]
    write: Callable[[float], str]
    """A y, in words."""


@dataclass(frozen=True)
class Line:
    name: str
    path: str
    end: tuple[int, int]
    hover: list[tuple[int, str, str]]
    """[place, x in words, y in words]"""


@dataclass(frozen=True)
class Band:
    """A part of the width, with a meaning."""

    name: str
    place: int
    width: int


@dataclass(frozen=True)
class Chart:
    title: str
    unit: str
    x_title: str
    is_logarithmic: bool
    lines: list[Line]
    not_measured: list[str]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bands: list[Band] = field(default_factory=list)

    @property
    def hover_json(self) -> str:
        return json.dumps([line.hover for line in self.lines])


def draw_chart(
    title: str,
    unit: str,
    curves: Iterable[Curve],
    x_scale: Scale,
    x_title: str,
    write_x: Callable[[float], str],
    *,
    x_ticks: list[Tick] | None = None,
    bands: list[Band] | None = None,
) -> Chart:
    """The curves that were measured, on one scale that fits them."""
    curves = list(curves)
    measured = [curve for curve in curves if any(y is not None for _, y in curve.points)]
    y_scale = scale_values([y for curve in measured for _, y in curve.points if y is not None])
    return Chart(
        title=title,
        unit=unit,
        x_title=x_title,
        is_logarithmic=y_scale.is_logarithmic,
        lines=[_draw_line(curve, x_scale, y_scale, write_x) for curve in measured],
        not_measured=[curve.name for curve in curves if curve not in measured],
        x_ticks=x_ticks or [Tick(x_scale.place(value), text) for value, text in x_scale.ticks],
        y_ticks=[Tick(SIZE - y_scale.place(value), text) for value, text in y_scale.ticks],
        bands=bands or [],
    )


def _draw_line(curve: Curve, x_scale: Scale, y_scale: Scale, write_x: Callable[[float], str]) -> Line:
    path, hover = "", []
    is_down = False
    place = height = 0
    for x, y in curve.points:
        if y is None:
            is_down = False
            continue
        place, height = x_scale.place(x), SIZE - y_scale.place(y)
        # A line of no length makes a lonely point visible.
        path += f"L{place} {height}" if is_down else f"M{place} {height}h0"
        hover.append((place, write_x(x), curve.write(y)))
        is_down = True
    return Line(curve.name, path, (place, height), hover)


def scale_values(values: Sequence[float]) -> Scale:
    """From 0, or where the largest is far from the others, logarithmic."""
    values = sorted(value for value in values if value > 0)
    if not values:
        return scale_from_zero(1)
    highest, median = values[-1], values[len(values) // 2]
    if highest <= LOGARITHMIC_ABOVE * median:
        step = _find_step(highest)
        return scale_from_zero(step * math.ceil(highest / step - 1e-9), step)
    first, last = math.floor(math.log10(values[0])), math.ceil(math.log10(highest))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    every = -(-(last - first) // MOST_TICKS)
    ticks = [factor * 10.0**power for power in range(first, last, every) for factor in factors] + [10.0**last]
    low = max(tick for tick in ticks if tick <= values[0])
    high = min(tick for tick in ticks if tick >= highest)
    return Scale(low, high, [(tick, write_short(tick)) for tick in ticks if low <= tick <= high], is_logarithmic=True)


def scale_from_zero(high: float, step: float = 0.0) -> Scale:
    step = step or _find_step(high)
    # Multiplied and rounded, for 0.30000000000000004 is no text for a tick.
    ticks = [round(step * number, 9) for number in range(int(high / step + 1e-9) + 1)]
    return Scale(0.0, high, [(tick, write_short(tick)) for tick in ticks])


def _find_step(high: float) -> float:
    """The least of 1, 2, 5, 10 ... with which no more than MOST_TICKS steps reach `high`."""
    power = 10.0 ** math.floor(math.log10(high / MOST_TICKS))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power * MOST_TICKS >= high * (1 - 1e-9))
