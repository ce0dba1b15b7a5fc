"""Run the Autobahn test suite against fastbcast, and judge each case: `make compliance`.

    make compliance                             # all cases, 20 to 40 minutes, most of them for sections 12 and 13
    make compliance ARGS=--short                # of those only what CI runs
    make compliance ARGS="--cases 5.* 12.1.3"   # some

The suite's client is this program's child, and so is the server (echo_server.py), another one for each run. All that
they write, the suite's own pages of each case too, is in build/compliance.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from expected import (
    EXPECTATIONS,
    expectation_of,
    find_faults,
    find_patterns_without_cases,
    find_unused,
    read_explanations,
)

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build/compliance"
REPORTS = FOLDER / "reports"
EXPLANATIONS = ROOT / "docs/compliance.md"
TIMEOUT_SCALE = float(os.environ.get("FASTBCAST_TEST_TIMEOUT_SCALE", "1"))
SUITE_TIMEOUT_SECONDS = 3600 * TIMEOUT_SCALE
STOP_TIMEOUT_SECONDS = 20 * TIMEOUT_SCALE

PLAIN = [f"{section}.*" for section in range(1, 11) if section != 8]    # the suite has none
COMPRESSED = ["12.*", "13.*"]
# Of each data and each offer: 16 bytes, 4 KiB, and 8 KiB in frames of 256 bytes.
SOME_COMPRESSED = [
    f"{section}.{kind}.{number}" for section, kinds in ((12, 5), (13, 7)) for kind in range(1, kinds + 1)
    for number in (1, 5, 11)
]


class Run(NamedTuple):
    name: str
    arguments: list[str]    # of echo_server.py
    cases: list[str]        # patterns, as the suite reads them


def choose_runs(patterns, is_short):
    """What to run: of `patterns` each where it belongs, or, without them, all."""
    compressed = [pattern for pattern in patterns if pattern.startswith(("12.", "13."))]
    plain = [pattern for pattern in patterns if pattern not in compressed]
    if not patterns:
        plain, compressed = PLAIN, SOME_COMPRESSED if is_short else COMPRESSED
    runs = [
        Run("sent", [], plain),
        Run("published", ["--publish"], compressed),
    ]
    return [run for run in runs if run.cases]


def start_server(arguments, log):
    """Start the echo server; returns (process, its URL)."""
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("echo_server.py"), *arguments],
        stdout=subprocess.PIPE, stderr=log, text=True,
    )
    line = server.stdout.readline()
    match = re.fullmatch(r"listening on (ws://\S+)\n", line)
    if match is None:
        server.kill()
        sys.exit(f"the server said {line!r}; see {log.name}")
    return server, match[1]


def run_suite(url, cases, reports_folder):
    """Let the suite run; returns its reports in their order."""
    shutil.rmtree(reports_folder, ignore_errors=True)
    specification = FOLDER / "specification.json"
    specification.write_text(json.dumps({
        "servers": [{"agent": "fastbcast", "url": url}],
        "outdir": str(reports_folder),
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }))
    # What is set for the Python of the server is not for that of the suite.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with open(FOLDER / "suite.log", "w+") as log:
        subprocess.run(
            [FOLDER / "suite/bin/python", "-m", "autobahntestsuite.wstest",
             "--mode", "fuzzingclient", "--spec", specification],
            stdout=log, stderr=subprocess.STDOUT, env=environment, check=True, timeout=SUITE_TIMEOUT_SECONDS,
        )
        log.seek(0)
        said = re.search(r"will run (\d+) test cases", log.read())
    if said is None:
        sys.exit(f"the suite did not say how many cases it runs; see {log.name}")
    wanted = int(said[1])
    reports = [json.loads(file.read_text()) for file in reports_folder.glob("*_case_*.json")]
    if not reports or len(reports) != wanted:
        sys.exit(f"{wanted} cases of {' '.join(cases)} were to run, {len(reports)} did; see {log.name}")
    if unknown := find_patterns_without_cases([report["id"] for report in reports], cases):
        sys.exit(f"the suite has no case {', '.join(unknown)}: nothing was tried of it")
    return sorted(reports, key=lambda report: [int(part) for part in report["id"].split(".")])


def print_summary(reports, faults):
    print(f"{'cases':<32} {'run':>4} {'right':>6}  first CLOSE  code  what")
    run = Counter(expectation_of(report["id"]) for report in reports)
    wrong = Counter(expectation_of(case) for case in faults)
    for row in EXPECTATIONS:
        if run[row]:
            counts = f"{run[row]:>4} {run[row] - wrong[row]:>6}"
            print(f"{row.cases:<32} {counts}  {row.first_close:<11}  {row.code or 'same'}  {row.reason}")


def judge(run):
    """Run it, print what came of it, and return (the cases there were, how many are wrong)."""
    with open(FOLDER / "server.log", "w+") as log:
        server, url = start_server(run.arguments, log)
        try:
            reports = run_suite(url, run.cases, REPORTS / run.name)
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(STOP_TIMEOUT_SECONDS)
        log.seek(0)
        server_errors = log.read()

    explanations = read_explanations(EXPLANATIONS.read_text())
    faults = {report["id"]: found for report in reports if (found := find_faults(report, explanations))}
    print(f"\n{run.name}:", "echo_server.py", *run.arguments)
    print_summary(reports, faults)
    print()
    for report in reports:
        for result in sorted({report["behavior"], report["behaviorClose"]}):
            if why := explanations.get((report["id"], result)):
                print(f"{report['id']} is {result}: {why}")
    for case, found in faults.items():
        print(f"{case}: " + "; ".join(found))
    sys.stdout.flush()
    if status != 0 or "Traceback" in server_errors:
        sys.exit(f"the server ended with status {status} and said:\n{server_errors}")
    return [report["id"] for report in reports], len(faults)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=[], metavar="PATTERN", help="case numbers; default: all")
    parser.add_argument("--short", action="store_true", help="of sections 12 and 13 only some cases, as CI does")
    arguments = parser.parse_args()
    started = time.monotonic()
    judged = [judge(run) for run in choose_runs(arguments.cases, arguments.short)]
    wrong = sum(count for _, count in judged)
    print(f"{' + '.join(str(len(cases)) for cases, _ in judged)} cases, {wrong} of them wrong, "
          f"in {time.monotonic() - started:.0f} s; the suite's own pages: {REPORTS.relative_to(ROOT)}/*/index.html")
    all_cases = [case for cases, _ in judged for case in cases]
    unused = [] if arguments.cases else find_unused(all_cases, read_explanations(EXPLANATIONS.read_text()))
    print("\n".join(unused), end="\n" if unused else "")
    sys.exit(bool(wrong or unused))


if __name__ == "__main__":
    main()
