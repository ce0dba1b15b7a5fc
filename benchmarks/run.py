"""End-to-end benchmark: fastbcast beside the floor and its peers.

    python benchmarks/run.py pipelined --rounds 5 --json result.json

Procedure. The server is pinned to one core, the load generator (`fastbcast load`) to another. In each round
every server is started afresh, measured and stopped, one after the other (A B C, A B C, ...), so that a
slow minute of the machine hits all of them. A figure is the median over the rounds with its least
and greatest; the ratio is taken within each round, against the scenario's reference server, and its
median is the figure to trust most.

What the load generator notes of a round (INVALID as a limit of the server, NOT COMPARABLE, who waited for a core:
fastbcast/load/result.py) is below its row. Such rounds are marked, never left out.

Exit status: 0; 1 if messages were missing, wrong or not delivered in time, memory grew beyond what
fastbcast promises, a server did not start, or nothing was measured of a case; 2 usage. A slow figure is never a
failure.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cases import LOAD, Case, Variant
from columns import ALLOWED_GROWTH, PEAK_GROWTH, Column, Result
from scenarios import SCENARIOS
from servers import (
    COMMANDS,
    HERE,
    SUBJECT,
    read_hard_cap_bytes,
    require_options,
)

from fastbcast.command.load import parse_plan
from fastbcast.load.crew import LoadFailed, run_load
from fastbcast.load.machine import describe_machine
from fastbcast.load.result import make_result
from fastbcast.load.target import Server, ServerUnavailable, pinned_to
from fastbcast.load.verdict import find_problems

if TYPE_CHECKING:
    from fastbcast.load._board import Board
    from fastbcast.load.timeline import Interval

LOAD_TIMEOUT_SECONDS = 180
CURSOR_BYTES = 1 * 1024  # what a slow subscriber may cost fastbcast, besides the rest of one frame
FRAME_HEADER_BYTES = 10  # the longest of a server's
ROUNDS = {"quick": 1, "many": 1, "stalled": 3, "backlog": 3, "fair": 3, "channels": 3, "freshness": 3}  # others: 5
SETTING_TYPES = {"int": int, "float": float}  # annotations of scenarios' parameters, as written


@dataclass
class Row:
    """One server, or one variant of a server, in one case: a result per round."""

    server: str
    command: list[str]
    variant: Variant | None = None
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.server}, {self.variant.title}" if self.variant else self.server

    def values(self, column: Column) -> list[float]:
        read = [column.read(result) for result in self.results]
        return [value for value in read if value is not None]


def read_steal_seconds(core: int) -> float:
    """Time the host gave to others while this core wanted to run."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            return int(line.split()[8]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def run_generator(server: Server, options: list[str], core: int) -> Result:
    """Load it once. A run that says nothing usable has `problem` set."""

    def end_in_time(interval: Interval, board: Board) -> None:
        if interval.seconds > LOAD_TIMEOUT_SECONDS:
            raise LoadFailed(f"did not end within {LOAD_TIMEOUT_SECONDS} s")

    target = [f"{server.url}benchmark", "--server-pid", str(server.pid), "--cores", str(core)]
    try:
        result = make_result(run_load(parse_plan([*target, *options]), end_in_time))
    except LoadFailed as failed:
        return {"problem": str(failed)}
    if result["was_interrupted"]:
        raise KeyboardInterrupt
    return result


def run_script(program: str, server: Server | None, options: list[str], core: int) -> Result:
    """Run a script once that prints its result; the same."""
    command = [sys.executable, str(HERE / program), *(["--url", f"{server.url}benchmark"] if server else []), *options]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, preexec_fn=pinned_to(core), timeout=LOAD_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"did not end within {LOAD_TIMEOUT_SECONDS} s"}
    if done.returncode != 0 or not done.stdout.strip():
        lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        return {"problem": lines[-1]}  # a traceback may be above it
    result: Result = json.loads(done.stdout)
    return result


def measure(case: Case, row: Row, cores: tuple[int, int]) -> Result:
    """One round of one row: start the server, measure, stop it."""
    options = [*case.load, *(row.variant.load if row.variant else ())]
    if not case.has_server:
        return run_script(case.program, None, options, cores[0])
    server_options = row.variant.server_options if row.variant else ()
    try:
        with Server(row.server, [*row.command, *server_options], core=cores[0]) as server:
            steal_seconds = read_steal_seconds(cores[0])
            if case.program == LOAD:
                result = run_generator(server, options, cores[1])
            else:
                told = ["--server-pid", str(server.pid)] if case.has_server_pid else []
                result = run_script(case.program, server, [*told, *options], cores[1])
            steal_seconds = read_steal_seconds(cores[0]) - steal_seconds
    except ServerUnavailable as unavailable:
        return {"problem": unavailable.reason}
    if "problem" in result:
        return result
    result.update(server.report)
    # The connects are in it, too: an upper bound, good enough to explain an invalid row.
    result["steal_share"] = steal_seconds / result["seconds"] if result["seconds"] else None
    if case.has_bound:
        result["allowed_growth_bytes"] = allowed_growth_bytes(case, result)
    return result


def allowed_growth_bytes(case: Case, result: Result) -> int | None:
    """A channel's hard cap and a frame, and for each stalled client a cursor and the rest of a frame."""
    hard_cap_bytes = case.hard_cap_bytes or read_hard_cap_bytes()
    if hard_cap_bytes is None:
        return None
    frame_bytes: int = result["settings"]["size_bytes"] + FRAME_HEADER_BYTES
    stalled: int = result["slow_clients"]["count"]
    return hard_cap_bytes + frame_bytes + stalled * (CURSOR_BYTES + frame_bytes)


def judge_growth(result: Result) -> str | None:
    """What is wrong with fastbcast's memory, in words. What was not measured has not been within its bound."""
    grown_mib, allowed_mib = PEAK_GROWTH.read(result), ALLOWED_GROWTH.read(result)
    if grown_mib is None or allowed_mib is None:
        return "BOUND NOT MEASURED: " + ("memory is not known" if grown_mib is None else "the bound is not known")
    if grown_mib > allowed_mib:
        return f"OVER ITS BOUND: grew by {grown_mib:.1f} MiB, allowed {allowed_mib:.1f}"
    return None


def describe_notes(results: list[Result]) -> list[str]:
    """What the load generator notes of these rounds: each kind of note once, in how many, in the words of the last.

    A note of another round differs from its first digit on. The mark in capitals stays in front.
    """
    rounds: Counter[str] = Counter()
    last: dict[str, str] = {}
    for result in results:
        for note in result.get("notes", ()):
            kind = re.split(r"\d", note, maxsplit=1)[0]
            rounds[kind] += 1
            last[kind] = note
    described = []
    for kind, note in last.items():
        mark, rest = re.fullmatch(r"((?:[A-Z]{2,} ?)*)(.*)", note).groups()
        number = f"in {rounds[kind]} of {len(results)} rounds"
        described.append(f"{mark.strip()} {number}{rest}" if rest.startswith(":") else f"{mark}{number} {rest}")
    return described


def make_rows(case: Case, commands: dict[str, list[str]]) -> list[Row]:
    """The rows of a table, in the order in which a round measures them."""
    rows: list[Row] = []
    for name in case.servers:
        if name not in commands:
            continue
        for variant in case.variants or (None,):
            try:
                require_options(name, commands[name], variant.server_options if variant else ())
            except ServerUnavailable as unavailable:
                print(f"left out: {case.title}: {unavailable}", file=sys.stderr)
                break
            rows.append(Row(name, commands[name], variant))
    return rows


def run_case(case: Case, commands: dict[str, list[str]], rounds: int, cores: tuple[int, int]) -> tuple[list[Row], bool]:
    """Returns the rows, and whether every message of every round arrived."""
    rows = make_rows(case, commands)
    is_complete = True
    for number in range(1, rounds + 1):
        for row in rows:
            print(f"{case.title}: round {number} of {rounds}: {row.name}", file=sys.stderr)
            result = measure(case, row, cores)
            problem = result.get("problem")
            if case.program == LOAD and problem is None:
                problem = ", ".join(find_problems(result))
            if problem:
                row.notes.append(f"round {number}: {problem if 'problem' in result else f'WRONG: {problem}'}")
                is_complete &= case.may_peers_stop and not row.server.startswith(SUBJECT) and "problem" not in result
            if "problem" in result:
                continue
            if case.program != LOAD and result.get("missing"):
                row.notes.append(f"round {number}: WRONG: {result['missing']} connections lack messages")
                is_complete &= not row.server.startswith(SUBJECT)
            row.results.append({**result, "round": number})
            if case.has_bound and row.server.startswith(SUBJECT) and (fault := judge_growth(result)):
                row.notes.append(f"round {number}: {fault}")
                is_complete = False
    if not any(row.results for row in rows):
        print(f"{case.title}: nothing was measured: no server has a result", file=sys.stderr)
        is_complete = False
    for row in rows:
        if case.is_about_speed:
            row.notes[:0] = describe_notes(row.results)
        if case.min_connects:
            few = sum(result["churn_handshake_ms"]["count"] < case.min_connects for result in row.results)
            if few:
                reason = f"fewer than {case.min_connects} connects"
                row.notes.insert(0, f"NO P99 in {few} of {len(row.results)} rounds: {reason}")
    return rows, is_complete


def find_reference(case: Case, rows: list[Row], row: Row) -> Row | None:
    if not case.reference and not case.variants:
        return None
    server = case.reference or row.server
    return next((other for other in rows if other.server == server), None)


def ratios(row: Row, reference: Row | None, judged: Column) -> list[float]:
    """One ratio per round that both rows finished."""
    if reference is None:
        return []
    of_reference = {result["round"]: judged.read(result) for result in reference.results}
    pairs = [(judged.read(result), of_reference.get(result["round"])) for result in row.results]
    return [own / other for own, other in pairs if own is not None and other]


def describe(values: list[float], decimals: int, has_spread: bool) -> str:
    if not values:
        return "-"
    text = f"{statistics.median(values):,.{decimals}f}"
    if has_spread and len(values) > 1:
        text += f" ({min(values):,.{decimals}f}..{max(values):,.{decimals}f})"
    return text


def print_table(case: Case, rows: list[Row]) -> None:
    titles = ["server", *(column.title for column in case.columns)]
    is_compared = case.judged is not None and any(find_reference(case, rows, row) for row in rows)
    if case.judged and is_compared:
        short = case.judged.short or case.judged.title.split()[0]
        titles.append(f"{short} of {case.reference or case.variants[0].title}'s")
    lines = [titles]
    for row in rows:
        cells = [row.name]
        cells += [describe(row.values(column), column.decimals, column.has_spread) for column in case.columns]
        if case.judged and is_compared:
            cells.append(describe(ratios(row, find_reference(case, rows, row), case.judged), 2, has_spread=True))
        lines.append(cells)
    widths = [max(len(line[at]) for line in lines) for at in range(len(titles))]
    print(f"\n{case.title}    ({' '.join(case.load)})")
    for line, row in zip(lines, [None, *rows], strict=True):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        for note in row.notes if row else ():
            print(f"    ^ {note}")


def read_commit() -> str | None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return commit.stdout.strip() if commit.returncode == 0 else None


def find_commands(names: list[str]) -> dict[str, list[str]]:
    """The command of each server that can run here; the subject must be among them if it is asked for."""
    commands: dict[str, list[str]] = {}
    for name in names:
        try:
            commands[name] = COMMANDS[name]()
        except ServerUnavailable as unavailable:
            if name == SUBJECT:
                print(f"run.py: {unavailable} (--servers leaves it out)", file=sys.stderr)
                sys.exit(2)
            print(f"left out: {unavailable}", file=sys.stderr)
    return commands


def find_settings(scenario: str) -> list[inspect.Parameter]:
    """A scenario's numbers (clients, seconds, ...): each can be set on the command line."""
    parameters = inspect.signature(SCENARIOS[scenario]).parameters.values()
    return [parameter for parameter in parameters if parameter.annotation in SETTING_TYPES]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scenarios = parser.add_subparsers(dest="scenario", required=True, metavar="SCENARIO")
    for name, scenario in SCENARIOS.items():
        sub = scenarios.add_parser(name, help=scenario.__doc__, description=scenario.__doc__)
        sub.add_argument("--rounds", type=int, default=ROUNDS.get(name, 5))
        for parameter in find_settings(name):
            flag = f"--{parameter.name.replace('_', '-')}"
            sub.add_argument(flag, type=SETTING_TYPES[parameter.annotation], help=f"instead of {parameter.default:,}")
        sub.add_argument("--servers", type=lambda text: text.split(","), help=f"of {', '.join(COMMANDS)}")
        sub.add_argument("--json", type=Path, metavar="FILE", help="every round's figures")
    arguments = parser.parse_args()
    if unknown := set(arguments.servers or ()) - set(COMMANDS):
        parser.error(f"no such server: {', '.join(sorted(unknown))}")
    if arguments.rounds < 1:
        parser.error("--rounds is at least 1")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception: the servers are stopped
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # inherited by servers and client
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        print("one core only: server and client share it, and no figure is valid", file=sys.stderr)
    cores = (available[0], available[-1])
    os.sched_setaffinity(0, {cores[1]})  # this process, too, leaves the server's core alone
    given = {parameter.name: getattr(arguments, parameter.name) for parameter in find_settings(arguments.scenario)}
    cases = SCENARIOS[arguments.scenario](**{name: value for name, value in given.items() if value is not None})
    if arguments.servers:
        cases = [replace(case, servers=tuple(arguments.servers)) for case in cases]
    commands = find_commands(sorted({name for case in cases for name in case.servers}))

    is_complete = True
    report: list[dict[str, Any]] = []
    for case in cases:
        rows, is_case_complete = run_case(case, commands, arguments.rounds, cores)
        is_complete &= is_case_complete
        if rows:
            print_table(case, rows)
        report.append({
            "case": case.title,
            "load": case.load,
            "servers": {row.name: {"notes": row.notes, "rounds": row.results} for row in rows},
        })
    if arguments.json:
        machine = {**describe_machine(), "commit": read_commit()}
        document = {"scenario": arguments.scenario, "machine": machine, "cases": report}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    if not is_complete:
        print("\nFAILED: messages missing, wrong or late, memory over its bound, a server that did not start,"
              " or nothing measured", file=sys.stderr)
    return 0 if is_complete else 1


if __name__ == "__main__":
    sys.exit(main())
