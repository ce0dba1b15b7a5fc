"""Has a step of the data path become longer? Instructions, counted by callgrind, against what was recorded.

    python benchmarks/gate.py                   # compare with gate.json
    python benchmarks/gate.py --base main       # compare with a commit, built and counted here and now
    python benchmarks/gate.py --record          # write gate.json: what is counted now is what is allowed

Procedure. `counted.py` runs once under callgrind and counts each figure at two sizes, some times each; the difference
of the shortest counts, divided by the extra units, is the figure. It does not depend on time or on what else the
machine does.

It does depend on the toolchain: interpreter, compiler, uvloop and so on. gate.json says with which one it was
recorded. With another one its figures mean nothing, so the commit that recorded them is built and counted
here too, as with `--base`, and the two are compared.

The exit status is 1 if a figure is longer than allowed, and 2 if nothing could be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from instructions import bare_environment, callgrind, read_total
from servers import HERE

LIMITS = HERE / "gate.json"
ALLOWED_EXCESS = 0.05
COUNT_TIMEOUT_SECONDS = 900

Figures = Mapping[str, float]


class NothingToCompare(Exception):
    """The text says why."""


def read_output(*command: str, **options: Any) -> str:
    """What `command` prints; what it says of its failure is on our standard error."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **options).stdout


def first_line_of(*command: str) -> str:
    return read_output(*command).partition("\n")[0]


def describe_toolchain() -> dict[str, str]:
    """All that moves a count beside our own code."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    return {
        "machine": platform.machine(),
        "python": sys.version.replace("\n", ""),
        "compiler": first_line_of(shlex.split(compiler)[0], "--version"),
        "libc": " ".join(platform.libc_ver()),
        "valgrind": first_line_of("valgrind", "--version"),
        **{package: version(package) for package in ("Cython", "uvloop")},
    }


# Counting.


def subtract_sizes(parts: Sequence[tuple[str, int] | None], totals: Sequence[int]) -> dict[str, float]:
    """Instructions per unit: of each figure's two sizes the difference, by the difference of their units."""
    sizes: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for part, total in zip(parts, totals, strict=True):
        if part is not None:
            figure, units = part
            sizes[figure][units] = min(total, sizes[figure].get(units, total))
    figures = {}
    for figure, measured in sizes.items():
        (few, short), (many, long) = sorted(measured.items())
        figures[figure] = round((long - short) / (many - few), 1)
    return figures


def count_figures(library: Path | None = None) -> Figures:
    """Run `counted.py` under callgrind, on the fastbcast of the folder `library` or on the installed one."""
    environment = bare_environment() | ({} if library is None else {"PYTHONPATH": str(library)})
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder, "callgrind")
        command = [*callgrind(profile, "--quiet", "--dump-before=getpgrp"), sys.executable, str(HERE / "counted.py")]
        printed = read_output(*command, env=environment, timeout=COUNT_TIMEOUT_SECONDS)
        report = json.loads(printed)
        if library is not None and not Path(report["package"]).is_relative_to(library):
            raise NothingToCompare(f"{report['package']} was counted instead of the one in {library}")
        cuts = range(1, len(report["parts"]) + 1)
        totals = [read_total([profile.with_suffix(f".{number}")]) for number in cuts]
    return require_counts(subtract_sizes(report["parts"], totals))


def require_counts(figures: Figures) -> Figures:
    """The figures, if each was counted: no step takes no instructions, and that would be shorter than any limit."""
    if not figures:
        raise NothingToCompare("counted.py has counted no step")
    if empty := [figure for figure, count in figures.items() if not count > 0]:
        raise NothingToCompare(f"callgrind counted no instructions of {', '.join(empty)}")
    return figures


def count_base(revision: str) -> Figures:
    """Build a commit with the tools at hand, and count it with the programs of this one."""
    with tempfile.TemporaryDirectory() as folder:
        archive, source, library = Path(folder, "source.zip"), Path(folder, "source"), Path(folder, "library")
        read_output("git", "-C", str(HERE.parent), "archive", f"--output={archive}", revision)
        shutil.unpack_archive(archive, source)
        build = [sys.executable, "setup.py", "--quiet", "build", "--build-lib", str(library)]
        read_output(*build, cwd=source, env={**os.environ, "FASTBCAST_BUILD": "release"})
        return count_figures(library)


# Comparing.


def compare(before: Figures, after: Figures, allowed_excess: float) -> tuple[list[str], bool]:
    """A line for each figure, and whether all are as they should be.

    A figure that only one side has is not: nothing was compared.
    """
    lines = [f"{'instructions per unit':<24}{'before':>10}{'after':>10}{'change':>10}"]
    is_right = True
    for figure in [*before, *(figure for figure in after if figure not in before)]:
        if figure not in before or figure not in after:
            where = "is not counted any more" if figure in before else "was not counted before"
            lines.append(f"{figure:<24}{where}: --record")
            is_right = False
            continue
        excess = after[figure] / before[figure] - 1
        line = f"{figure:<24}{before[figure]:>10,.1f}{after[figure]:>10,.1f}{excess:>+10.1%}"
        if excess > allowed_excess:
            line += f"   LONGER, {allowed_excess:.0%} is allowed"
            is_right = False
        elif excess < -allowed_excess:
            line += "   shorter: --record, so that it stays so"
        lines.append(line)
    return lines, is_right


def read_limits() -> dict[str, Any]:
    limits: dict[str, Any] = json.loads(LIMITS.read_text())
    return limits


def find_recording_commit() -> str:
    git = ["git", "-C", str(HERE.parent)]
    if first_line_of(*git, "rev-parse", "--is-shallow-repository") == "true":  # its oldest commit seems to have all
        raise NothingToCompare(f"the commit that recorded {LIMITS.name} is not in a shallow clone: fetch the history")
    commit = first_line_of(*git, "log", "-1", "--format=%h", "--", str(LIMITS))
    if not commit:
        raise NothingToCompare(f"no commit here has recorded {LIMITS.name}: --base REV, or --record")
    return commit


def choose_before(revision: str | None, limits: Mapping[str, Any]) -> Figures:
    """The figures to compare with: a commit's, the recorded ones, or those of the commit that recorded them."""
    if revision is None:
        here = describe_toolchain()
        recorded: dict[str, str] = limits["toolchain"]
        others = [name for name in here if here[name] != recorded.get(name)]
        if not others:
            return require_counts(limits["figures"])
        print(f"{LIMITS.name} was recorded with other tools, so its figures do not count here:")
        for name in others:
            print(f"  {name}: {recorded.get(name)}; here {here[name]}")
        revision = find_recording_commit()
    print(f"building and counting {revision}", flush=True)
    return count_base(revision)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--base", metavar="REV", help="compare with this commit instead of the recorded figures")
    choice.add_argument("--record", action="store_true", help="write what is counted now as what is allowed")
    options = parser.parse_args(arguments)
    try:
        if options.record:
            limits = {"allowed_excess": ALLOWED_EXCESS, "toolchain": describe_toolchain(), "figures": count_figures()}
            LIMITS.write_text(json.dumps(limits, indent=1) + "\n")
            return 0
        limits = read_limits()
        before = choose_before(options.base, limits)
        after = count_figures()
    except (NothingToCompare, OSError, subprocess.SubprocessError) as reason:
        print(f"gate.py: {reason}", file=sys.stderr)
        return 2
    lines, is_right = compare(before, after, limits["allowed_excess"])
    print("\n".join(lines))
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
