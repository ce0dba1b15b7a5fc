"""What --require asks of a run's figures: `p99<50ms`, `missing=0`, `deliveries_per_second>1M`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .result import WRONG_COUNTS, Result
from .units import write_bytes, write_milliseconds, write_number, write_share

__all__ = ["BadRequirement", "Requirement", "parse_requirement"]

_OPERATORS = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_TIME = {"": 1.0, "us": 0.001, "ms": 1.0, "s": 1000.0}
_COUNT = {"": 1.0, "k": 1e3, "m": 1e6}
_SHARE = {"": 1.0, "%": 0.01}
_TIMES = {
    "": "delivery",
    "completion_": "completion",
    "spread_": "spread",
    "slow_": "slow_delivery",
    "handshake_": "handshake",
    "churn_handshake_": "churn_handshake",
}
_POINTS = ("p50", "p90", "p99", "p99.9", "max")


def _with_unit(unit: str) -> Callable[[float], str]:
    return lambda value: write_number(value, unit)


@dataclass(frozen=True)
class Figure:
    """What can be required of: where it stands in a result, the units of its limit, and how its value is written."""

    path: tuple[str, ...]
    factors: dict[str, float]
    write: Callable[[float], str]


_FIGURES = {
    **{f"{prefix}{point}": Figure((f"{name}_ms", point), _TIME, write_milliseconds)
       for prefix, name in _TIMES.items() for point in _POINTS},
    **{name: Figure((name,), _COUNT, write_number) for name in (*WRONG_COUNTS, "skipped", "lost", "deliveries")},
    "deliveries_per_second": Figure(("deliveries_per_second",), _COUNT, _with_unit("/s")),
    "late": Figure(("late", "count"), _COUNT, write_number),
    "refused": Figure(("handshakes", "refused"), _COUNT, write_number),
    "handshakes_per_second": Figure(("handshakes", "per_second"), _COUNT, _with_unit("/s")),
    "client_cpu_share": Figure(("client", "cpu_share"), _SHARE, write_share),
    "server_cpu_share": Figure(("server", "cpu_share"), _SHARE, write_share),
    "server_cpu_us_per_delivery": Figure(("server", "cpu_us_per_delivery"), {"": 1.0, "us": 1.0}, _with_unit("µs")),
    "server_rss_peak_bytes": Figure(("server", "rss_peak_bytes"), _COUNT, write_bytes),
}


class BadRequirement(ValueError):
    """It cannot be understood; the text says what can."""


class Requirement:
    """One --require: `p99<50ms`, `missing=0`, `deliveries_per_second>1M`."""

    def __init__(self, text: str, figure: Figure, comparison: str, limit: float) -> None:
        self.text = text
        self.figure = figure
        self.comparison = comparison
        self.limit = limit

    def check(self, result: Result) -> dict[str, Any]:
        """Whether it is met, and what was found instead or at all. A figure that was not measured does not meet it."""
        value: Any = result
        for key in self.figure.path:
            value = value.get(key) if value is not None else None
        if value is None:
            found = "it could not be measured"
            if self.figure.path[0] == "server":
                found += " (see --server-pid)"
            return {"text": self.text, "is_met": False, "found": found}
        is_met = bool(_OPERATORS[self.comparison](value, self.limit))
        return {"text": self.text, "is_met": is_met, "found": f"it is {self.figure.write(value)}"}


def parse_requirement(text: str) -> Requirement:
    found = re.fullmatch(r"\s*([a-z_0-9.]+)\s*(<=|>=|!=|<|>|=)\s*([0-9.]+)\s*([a-zA-Z%]*)\s*", text)
    if found is None:
        raise BadRequirement(f"{text!r} is not like p99<50ms, missing=0 or deliveries_per_second>1M")
    name, comparison, number, unit = found.groups()
    figure = _FIGURES.get(name)
    if figure is None:
        raise BadRequirement(f"{name!r} is not a figure; there are {', '.join(sorted(_FIGURES))}")
    factor = figure.factors.get(unit.lower())
    if factor is None:
        units = ", ".join(filter(None, figure.factors))
        raise BadRequirement(f"{unit!r} is not a unit of {name} ({units})")
    try:
        limit = float(number) * factor
    except ValueError:
        raise BadRequirement(f"{number!r} is not a number") from None
    return Requirement(text, figure, comparison, limit)
