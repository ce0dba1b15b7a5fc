"""Bars of what `run.py --json` has kept: CPU time per delivery, and deliveries per second.

    python benchmarks/plot.py peers.json --output docs/img/peers        # makes peers.svg and peers.png

Two panels for each closed-loop case. A bar is the median of the rounds, its whisker goes from the least to the
greatest; who needs least CPU time is on top. An axis is logarithmic where the bars differ by more than
thirtyfold, and says so. A row with a note (INVALID, NOT COMPARABLE, ...) is hatched, and has it below its name.
Needs matplotlib: the extra `plot`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from columns import CPU_US, RATE, Column
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from servers import SUBJECT

TITLES = {
    "floor": "C floor, a send each",
    "floor-coalesce": "C floor, coalescing",
    "picows": "a loop over picows",
    "socketify": "socketify (uWebSockets)",
    "websockets": "websockets broadcast()",
    "tornado": "a loop over Tornado",
    "aiohttp": "a loop over aiohttp",
    "starlette": "a loop over Starlette",
    "ws": "Node ws",
    "bun": "Bun publish",
}
PANELS = ((CPU_US, "CPU time per delivery, us: less is better"), (RATE, "deliveries per second: more is better"))

ACCENT, PEER, FLOOR = "#d9480f", "#8c99a6", "#c8d0d8"
INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#e4e8ec", "#ffffff"  # a paper of its own: legible on any page
LOGARITHMIC_ABOVE = 30  # the greatest bar over the least
WIDTH_INCHES, BAR_INCHES, CASE_INCHES, FOOT_INCHES = 10.0, 0.3, 1.15, 0.35
LABEL_ROOM = 0.25  # of the longest bar, for the figure beside it
HATCH = "////"
PNG_DOTS_PER_INCH = 144
PNG_COLORS = 32
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "fastbcast",  # the same figures make the same file
    "font.sans-serif": ["DejaVu Sans", "Verdana"],  # each as wide as the other
    "hatch.linewidth": 1.2,
}


@dataclass
class Bar:
    """One row of a case's table."""

    name: str
    rounds: list[dict[str, Any]]
    mark: str  # what its notes say in capitals; "": nothing

    @property
    def title(self) -> str:
        return TITLES.get(self.name, self.name)

    @property
    def color(self) -> str:
        if self.name.startswith(SUBJECT):
            return ACCENT
        return FLOOR if self.name.startswith("floor") else PEER

    @property
    def weight(self) -> str:
        return "bold" if self.color == ACCENT else "normal"

    def values(self, column: Column) -> list[float]:
        read = [column.read(result) for result in self.rounds]
        return [value for value in read if value is not None]

    def median(self, column: Column) -> float | None:
        values = self.values(column)
        return statistics.median(values) if values else None


def read_mark(notes: list[str]) -> str:
    """`INVALID in 2 of 3 rounds` of a note that goes on to explain it."""
    marks = []
    for note in notes:
        if found := re.search(r"[A-Z][A-Z0-9 ]+[A-Z0-9](?: in \d+ of \d+ rounds)?", note):
            marks.append(found[0])
        elif note.startswith("round "):
            marks.append("a round failed")
    return ", ".join(dict.fromkeys(marks))


def read_bars(case: dict[str, Any]) -> list[Bar]:
    """From the least CPU time to the greatest; a server without a result comes last."""
    bars = [Bar(name, row["rounds"], read_mark(row["notes"])) for name, row in case["servers"].items()]
    return sorted(bars, key=lambda bar: bar.median(CPU_US) or float("inf"))


def is_drawn(case: dict[str, Any]) -> bool:
    """A closed loop in which somebody had a result."""
    return "--in-flight" in case["load"] and any(row["rounds"] for row in case["servers"].values())


def short_number(value: float, digits: str = ".3g") -> str:
    for unit, suffix in ((1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:{digits}}".rstrip(".") + suffix
    return f"{value:{digits}}".rstrip(".")


def draw_panel(axes: Axes, bars: list[Bar], column: Column, title: str) -> None:
    medians = [median for bar in bars if (median := bar.median(column))]
    least, greatest = min(medians), max(max(bar.values(column), default=0) for bar in bars)
    if greatest / least > LOGARITHMIC_ABOVE:
        title += " (log scale)"
        axes.set_xscale("log")
        start = least / 2
        axes.set_xlim(start, start * (greatest / start) ** (1 + LABEL_ROOM))
    else:
        axes.set_xlim(0, greatest * (1 + LABEL_ROOM))
    for at, bar in enumerate(bars):
        draw_bar(axes, at, bar, column)
    axes.set_ylim(len(bars) - 0.4, -0.6)  # the first is on top
    axes.set_title(title, loc="left", fontsize=9, color=MUTED)
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, colors=MUTED, labelsize=8)
    axes.spines[:].set_visible(False)


def draw_bar(axes: Axes, at: int, bar: Bar, column: Column) -> None:
    median, values = bar.median(column), bar.values(column)
    label, end = "no result", axes.get_xlim()[0]
    if median:
        label, end = short_number(median, digits="#.3g"), max(values)
        hatch = HATCH if bar.mark else ""
        axes.barh(at, median, height=0.66, color=bar.color, edgecolor=PAPER, linewidth=0, hatch=hatch)
        if len(values) > 1:
            spread = [[median - min(values)], [max(values) - median]]
            axes.errorbar(median, at, xerr=spread, ecolor=INK, elinewidth=1, capsize=2.5)
    axes.annotate(label, (end, at), xytext=(5, 0), textcoords="offset points", va="center",
                  fontsize=8.5, color=INK, weight=bar.weight)


def draw_names(axes: Axes, bars: list[Bar]) -> None:
    axes.set_yticks(range(len(bars)), [bar.title for bar in bars], fontsize=9.5, color=INK)
    for at, (label, bar) in enumerate(zip(axes.get_yticklabels(), bars, strict=True)):
        label.set_weight(bar.weight)
        axes.annotate(bar.mark, (0, at), xycoords=("axes fraction", "data"), xytext=(-4, -9.5),
                      textcoords="offset points", ha="right", va="center", fontsize=6.5, color=MUTED, style="italic")


def draw_case(axes: tuple[Axes, Axes], case: dict[str, Any]) -> None:
    bars = read_bars(case)
    for panel, (column, title) in zip(axes, PANELS, strict=True):
        draw_panel(panel, bars, column, title)
    left, right = axes
    draw_names(left, bars)
    right.set_yticks([])
    left.annotate(case["case"], xy=(0, 1), xycoords="axes fraction", xytext=(0, 24), textcoords="offset points",
                  fontsize=11.5, weight="bold", color=INK)
    right.annotate(" ".join(case["load"]), xy=(1, 1), xycoords="axes fraction", xytext=(0, 24),
                   textcoords="offset points", ha="right", fontsize=7.5, color=MUTED)


def caption(document: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    machine = document["machine"]
    rounds = max(len(row["rounds"]) for case in cases for row in case["servers"].values())
    system = ".".join(machine["kernel"].split(".")[:2])
    parts = [
        f"run.py {document['scenario']}, rounds: {rounds}; bars are medians, whiskers go from least to greatest",
        f"{machine['processor']}, {machine['cores']} cores",
        system,
        f"CPython {machine['python']}",
    ]
    return "; ".join(parts)


def draw(document: dict[str, Any], cases: list[dict[str, Any]]) -> Figure:
    heights = [CASE_INCHES + BAR_INCHES * len(case["servers"]) for case in cases]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + FOOT_INCHES), facecolor=PAPER, layout="constrained")
    figure.get_layout_engine().set(rect=(0.01, 0.02, 0.98, 0.97), h_pad=0.12, wspace=0.04)
    grid = figure.subplots(len(cases), 2, squeeze=False, height_ratios=heights)
    for axes, case in zip(grid, cases, strict=True):
        draw_case(tuple(axes), case)
    figure.supxlabel(caption(document, cases), x=0.01, ha="left", fontsize=7.5, color=MUTED)
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="what `run.py SCENARIO --json FILE` wrote")
    parser.add_argument("--output", type=Path, help="the pictures' name without its ending; by default the file's")
    arguments = parser.parse_args()
    document = json.loads(arguments.file.read_text())
    cases = [case for case in document["cases"] if is_drawn(case)]
    if not cases:
        print(f"plot.py: no closed-loop case with a result in {arguments.file}", file=sys.stderr)
        return 2
    matplotlib.rcParams.update(STYLE)
    figure = draw(document, cases)
    output = arguments.output or arguments.file.with_suffix("")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(f"{output}.svg", metadata={"Date": None})
    figure.savefig(f"{output}.png", dpi=PNG_DOTS_PER_INCH)
    # Few colours: a third of the bytes.
    Image.open(f"{output}.png").convert("RGB").quantize(PNG_COLORS).save(f"{output}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
