"""What --require asks of a run's figures: `p99<50ms`, `missing=0`, `deliveries_per_second>1M`."""

from __future__ import annotations

import operator
import re
from typing import Any

from .result import WRONG_COUNTS, Result

__all__ = ["BadRequirement", "Requirement", "parse_requirement"]

_OPERATORS = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_FACTORS = {"": 1.0, "us": 0.001, "ms": 1.0, "s": 1000.0, "k": 1e3, "m": 1e6, "%": 0.01}
_TIMES = {
    "": "delivery",
    "completion_": "completion",
    "spread_": "spread",
    "slow_": "slow_delivery",
    "handshake_": "handshake",
    "churn_handshake_": "churn_handshake",
}
_POINTS = ("p50", "p90", "p99", "p99.9", "max")
_PLAIN = {
    **{name: (name,) for name in (*WRONG_COUNTS, "skipped", "lost", "deliveries", "deliveries_per_second")},
    "late": ("late", "count"),
    "refused": ("handshakes", "refused"),
    "handshakes_per_second": ("handshakes", "per_second"),
    "client_cpu_share": ("client", "cpu_share"),
    "server_cpu_share": ("server", "cpu_share"),
    "server_cpu_us_per_delivery": ("server", "cpu_us_per_delivery"),
    "server_rss_peak_bytes": ("server", "rss_peak_bytes"),
}


class BadRequirement(ValueError):
    """It cannot be understood; the text says what can."""


class Requirement:
    """One --require: `p99<50ms`, `missing=0`, `deliveries_per_second>1M`."""

    def __init__(self, text: str, path: tuple[str, ...], comparison: str, limit: float) -> None:
        self.text = text
        self.path = path
        self.comparison = comparison
        self.limit = limit

    def check(self, result: Result) -> str | None:
        """None if it holds; else why not. A figure that there is not does not hold."""
        value: Any = result
        for key in self.path:
            value = value.get(key) if value is not None else None
        if value is None:
            return f"{self.text}: there is no such figure in this run"
        return None if _OPERATORS[self.comparison](value, self.limit) else f"{self.text}: it is {value:,.6g}"


def parse_requirement(text: str) -> Requirement:
    found = re.fullmatch(r"\s*([a-z_0-9.]+)\s*(<=|>=|!=|<|>|=)\s*([0-9.]+)\s*([a-zA-Z%]*)\s*", text)
    names = {**_PLAIN, **{f"{prefix}{point}": (f"{name}_ms", point) for prefix, name in _TIMES.items()
                          for point in _POINTS}}
    if found is None or found[4].lower() not in _FACTORS:
        raise BadRequirement(f"{text!r} is not like p99<50ms, missing=0 or deliveries_per_second>1M")
    if found[1] not in names:
        raise BadRequirement(f"{found[1]!r} is not a figure; there are {', '.join(sorted(names))}")
    try:
        limit = float(found[3]) * _FACTORS[found[4].lower()]
    except ValueError:
        raise BadRequirement(f"{found[3]!r} is not a number") from None
    return Requirement(text, names[found[1]], found[2], limit)
