"""Figures as people read them: three digits, and a unit. What is None was not measured."""

from __future__ import annotations

__all__ = ["NOT_MEASURED", "write_bytes", "write_milliseconds", "write_number", "write_share", "write_short"]

NOT_MEASURED = "not measured"


def write_number(value: float | None, unit: str = "") -> str:
    """Whole numbers in full, of others three digits."""
    if value is None:
        return NOT_MEASURED
    text = f"{value:,}" if isinstance(value, int) else _write_three_digits(value)
    return f"{text} {unit}".rstrip()


def write_milliseconds(value: float | None) -> str:
    """In µs, ms or s."""
    if value is None:
        return NOT_MEASURED
    if 0 < value < 0.9995:
        return f"{_write_three_digits(value * 1000)} µs"
    return f"{_write_three_digits(value)} ms" if value < 999.5 else f"{_write_three_digits(value / 1000)} s"


def write_bytes(value: float | None) -> str:
    """In units of 1000."""
    if value is None:
        return NOT_MEASURED
    for unit in ("bytes", "kB", "MB"):
        if abs(value) < 999.5:
            return f"{_write_three_digits(value)} {unit}"
        value /= 1000
    return f"{_write_three_digits(value)} GB"


def write_share(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{_write_three_digits(value * 100)} %"


def write_short(value: float) -> str:
    """For the ticks of an axis: 2.5 k, 40 M."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g}"


def _write_three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
