"""Run the Autobahn test suite against fastbcast, and judge each case: `make compliance`.

The suite's client is this program's child, and so is the server (echo_server.py). All that they write, the suite's
own pages of each case too, is in build/compliance.
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

from expected import EXPECTATIONS, expectation_of, find_faults, read_explanations

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build/compliance"
REPORTS = FOLDER / "reports"
EXPLANATIONS = ROOT / "docs/compliance.md"
COMPRESSION = ["12.*", "13.*"]      # fastbcast does not speak it
TIMEOUT_SCALE = float(os.environ.get("FASTBCAST_TEST_TIMEOUT_SCALE", "1"))
SUITE_TIMEOUT_SECONDS = 300 * TIMEOUT_SCALE
STOP_TIMEOUT_SECONDS = 20 * TIMEOUT_SCALE


def start_server(log):
    """Start the echo server; returns (process, its URL)."""
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("echo_server.py")], stdout=subprocess.PIPE, stderr=log, text=True
    )
    line = server.stdout.readline()
    match = re.fullmatch(r"listening on (ws://\S+)\n", line)
    if match is None:
        server.kill()
        sys.exit(f"the server said {line!r}; see {log.name}")
    return server, match[1]


def run_suite(url, cases):
    """Let the suite run; returns its reports in their order."""
    shutil.rmtree(REPORTS, ignore_errors=True)
    specification = FOLDER / "specification.json"
    specification.write_text(json.dumps({
        "servers": [{"agent": "fastbcast", "url": url}],
        "outdir": str(REPORTS),
        "cases": cases or ["*"],
        "exclude-cases": [] if cases else COMPRESSION,
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
        wanted = int(re.search(r"will run (\d+) test cases", log.read())[1])
    reports = [json.loads(file.read_text()) for file in REPORTS.glob("*_case_*.json")]
    if not reports or len(reports) != wanted:
        sys.exit(f"{wanted} cases were to run, {len(reports)} did; see {log.name}")
    return sorted(reports, key=lambda report: [int(part) for part in report["id"].split(".")])


def print_summary(reports, faults):
    print(f"{'cases':<32} {'run':>4} {'right':>6}  first CLOSE  code  what")
    run = Counter(expectation_of(report["id"]) for report in reports)
    wrong = Counter(expectation_of(case) for case in faults)
    for row in EXPECTATIONS:
        if run[row]:
            counts = f"{run[row]:>4} {run[row] - wrong[row]:>6}"
            print(f"{row.cases:<32} {counts}  {row.first_close:<11}  {row.code or 'same'}  {row.reason}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", metavar="PATTERN", help="case numbers; without it all but compression's")
    arguments = parser.parse_args()
    started = time.monotonic()
    with open(FOLDER / "server.log", "w+") as log:
        server, url = start_server(log)
        try:
            reports = run_suite(url, arguments.cases)
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(STOP_TIMEOUT_SECONDS)
        log.seek(0)
        server_errors = log.read()

    explanations = read_explanations(EXPLANATIONS.read_text())
    faults = {report["id"]: found for report in reports if (found := find_faults(report, explanations))}
    print_summary(reports, faults)
    print()
    for report in reports:
        for result in sorted({report["behavior"], report["behaviorClose"]}):
            if why := explanations.get((report["id"], result)):
                print(f"{report['id']} is {result}: {why}")
    for case, found in faults.items():
        print(f"{case}: " + "; ".join(found))
    if status != 0 or "Traceback" in server_errors:
        sys.exit(f"the server ended with status {status} and said:\n{server_errors}")
    print(f"{len(reports)} cases, {len(faults)} of them wrong, in {time.monotonic() - started:.0f} s; "
          f"the suite's own pages: {REPORTS.relative_to(ROOT)}/index.html")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
