"""End-to-end benchmark: fastbcast beside the floor and its peers.

    python benchmarks/run.py pipelined --rounds 5 --json result.json

Procedure. The server is pinned to one core and the load client to another. In each round every
server is started afresh, measured and stopped, one after the other (A B C, A B C, ...), so that a slow
minute of the machine hits all of them. A figure is the median over the rounds with its least
and greatest; the ratio is taken within each round, against the scenario's reference server, and its
median is the figure to trust most.

A closed-loop result is INVALID when the server used less than 95 % of its core: then the client,
or the scheduler, was measured. An open-loop result is INVALID when the client used more than 95 %
of its own. A result is NOT COMPARABLE when a read brought far more frames than were "in flight":
with --judge first a server that takes in messages while it is still writing earlier ones runs deeper than
another. Such rows are marked, never left out.

Exit status: 0; 1 if messages were missing, wrong or not delivered in time, or a server did not
start; 2 usage. A slow figure is never a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scenarios import SCENARIOS, Case, Column, Result
from servers import COMMANDS, SUBJECT, Server, ServerUnavailable, build_program, pinned_to

MIN_SERVER_CPU_SHARE = 0.95  # below it, a closed loop measured the client
MAX_CLIENT_CPU_SHARE = 0.95  # above it, an open loop measured the client
MAX_FRAMES_PER_IN_FLIGHT = 1.5  # above it, "in flight" did not bound the batches
LOAD_TIMEOUT_SECONDS = 180
WRONG_COUNTS = ("missing", "duplicated", "reordered", "corrupt", "closed_by_server")

@dataclass
class Row:
    """One server in one case: a result per round."""

    server: str
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def values(self, column: Column) -> list[float]:
        read = [column.read(result) for result in self.results]
        return [value for value in read if value is not None]


def read_steal_seconds(core: int) -> float:
    """Time the host gave to others while this core wanted to run."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            return int(line.split()[8]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def measure(server: Server, case: Case, server_core: int, load_core: int) -> Result:
    """Run the load client once. A run that says nothing usable has `problem` set."""
    command = [str(build_program("load")), "--url", f"{server.url}benchmark", *case.load]
    command += ["--timeout", str(LOAD_TIMEOUT_SECONDS)]
    for pid in server.pids:
        command += ["--server-pid", str(pid)]
    steal_seconds = read_steal_seconds(server_core)
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=pinned_to(load_core))
    if not done.stdout.strip():
        return {"problem": done.stderr.strip().splitlines()[0] if done.stderr else f"exit {done.returncode}"}
    result: Result = json.loads(done.stdout)
    steal_seconds = read_steal_seconds(server_core) - steal_seconds
    # The connects are in it, too: an upper bound, good enough to explain an invalid row.
    result["steal_share"] = steal_seconds / result["seconds"] if result["seconds"] else None
    return result


def find_problem(result: Result) -> str | None:
    if result["timed_out"]:
        return "TIME LIMIT"
    wrong = [f"{result[name]} {name}" for name in WRONG_COUNTS if result[name]]
    if result["probes_failed"]:
        wrong.append(f"{result['probes_failed']} probes failed")
    return "WRONG: " + ", ".join(wrong) if wrong else None


def is_invalid(result: Result, loop: str) -> bool:
    if loop == "closed":
        return (result["server_cpu_share"] or 0) < MIN_SERVER_CPU_SHARE
    return loop == "open" and (result["client_cpu_share"] or 0) > MAX_CLIENT_CPU_SHARE


def is_too_deep(case: Case, result: Result) -> bool:
    """The server's batches were larger than the messages in flight allow for the last subscriber.

    --judge first bounds only the distance to the FIRST subscriber. Whoever writes to a part of the
    subscribers, then reads, then writes to the next part, is sent a new batch for each part.
    """
    if "--in-flight" not in case.load:
        return False
    in_flight = int(case.load[case.load.index("--in-flight") + 1])
    return (result["frames_per_read"] or 0) > in_flight * MAX_FRAMES_PER_IN_FLIGHT


def run_case(case: Case, commands: dict[str, list[str]], rounds: int, cores: tuple[int, int]) -> tuple[list[Row], bool]:
    """Returns the rows, and whether every message of every round arrived."""
    rows = {name: Row(name) for name in case.servers if name in commands}
    is_complete = True
    for number in range(1, rounds + 1):
        for name, row in rows.items():
            print(f"{case.title}: round {number} of {rounds}: {name}", file=sys.stderr)
            try:
                with Server(name, commands[name], core=cores[0]) as server:
                    result = measure(server, case, *cores)
            except ServerUnavailable as unavailable:
                result = {"problem": unavailable.reason}
            problem = result.get("problem") or find_problem(result)
            if problem:
                row.notes.append(f"round {number}: {problem}")
                is_complete = False
            if "problem" not in result:
                row.results.append({**result, "round": number})
    for row in rows.values():
        invalid = sum(is_invalid(result, case.loop) for result in row.results)
        if invalid:
            limit = "server CPU below 95 %" if case.loop == "closed" else "client CPU above 95 %"
            row.notes.insert(0, f"INVALID in {invalid} of {len(row.results)} rounds: {limit}")
        deep = sum(is_too_deep(case, result) for result in row.results)
        if deep:
            reason = "more frames per read than in flight: see the README on judges"
            row.notes.insert(0, f"NOT COMPARABLE in {deep} of {len(row.results)} rounds: {reason}")
    return list(rows.values()), is_complete


def ratios(row: Row, reference: Row, judged: Column) -> list[float]:
    """One ratio per round that both servers finished."""
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
    reference = next((row for row in rows if row.server == case.reference), None)
    titles = ["server", *(column.title for column in case.columns)]
    if reference:
        titles.append(f"{case.judged.title.split()[0]} of {case.reference}'s")
    lines = [titles]
    for row in rows:
        cells = [row.server]
        cells += [describe(row.values(column), column.decimals, column.has_spread) for column in case.columns]
        if reference:
            cells.append(describe(ratios(row, reference, case.judged), 2, has_spread=True))
        lines.append(cells)
    widths = [max(len(line[at]) for line in lines) for at in range(len(titles))]
    print(f"\n{case.title}    ({' '.join(case.load)})")
    for line, row in zip(lines, [None, *rows], strict=True):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        for note in row.notes if row else ():
            print(f"    ^ {note}")


def describe_machine() -> dict[str, Any]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() if commit.returncode == 0 else None,
    }


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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scenarios = parser.add_subparsers(dest="scenario", required=True, metavar="SCENARIO")
    for name, scenario in SCENARIOS.items():
        sub = scenarios.add_parser(name, help=scenario.__doc__, description=scenario.__doc__)
        sub.add_argument("--rounds", type=int, default=1 if name in ("quick", "many") else 5)
        sub.add_argument("--clients", type=int, help="subscribers, instead of the scenario's")
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
    cases = SCENARIOS[arguments.scenario](**({"clients": arguments.clients} if arguments.clients else {}))
    if arguments.servers:
        cases = [replace(case, servers=tuple(arguments.servers)) for case in cases]
    commands = find_commands(sorted({name for case in cases for name in case.servers}))
    build_program("load")

    is_complete = True
    report: list[dict[str, Any]] = []
    for case in cases:
        rows, is_case_complete = run_case(case, commands, arguments.rounds, cores)
        is_complete &= is_case_complete
        print_table(case, rows)
        report.append({
            "case": case.title,
            "load": case.load,
            "servers": {row.server: {"notes": row.notes, "rounds": row.results} for row in rows},
        })
    if arguments.json:
        machine = describe_machine()
        document = {"scenario": arguments.scenario, "machine": machine, "cases": report}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    if not is_complete:
        print("\nFAILED: messages were missing, wrong or late, or a server did not start", file=sys.stderr)
    return 0 if is_complete else 1


if __name__ == "__main__":
    sys.exit(main())
