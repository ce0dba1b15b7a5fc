"""User-space instructions per delivery, counted by callgrind.

    python benchmarks/instructions.py --server fastbcast

Procedure. The server runs under `valgrind --tool=callgrind` twice, with two message counts and
everything else equal. The difference of the two totals is what the extra messages cost: start-up,
connects and handshakes, the same in both, fall out. One message is in flight until all subscribers
have it, so that every delivery is one send and the count does not depend on timing.

The server's environment is bare (PATH, HOME, PYTHONHASHSEED=0, PYTHONDONTWRITEBYTECODE=1): a longer
environment or random hashes would move the count. The number is about our own code only: the kernel's
part, which is most of the time of a send, is not in it.

`--repeat` runs the pair again; the results should agree to a few instructions in a thousand. If they
do not, the server does something that depends on time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from servers import COMMANDS, SUBJECT

from fastbcast.load.target import Server, ServerUnavailable

START_TIMEOUT_SECONDS = 180.0  # under valgrind an interpreter takes its time
STALL_SECONDS = 60  # without any progress


def bare_environment() -> dict[str, str]:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**environment, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


def callgrind(profile: Path | str, *options: str) -> list[str]:
    """What a command begins with, so that it is counted."""
    return ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", *options]


def read_total(profiles: list[Path]) -> int:
    """Instructions in callgrind's output; a process that forked has written several files."""
    total = 0
    for profile in profiles:
        found = re.search(r"^(?:summary|totals): (\d+)", profile.read_text(errors="replace"), re.MULTILINE)
        if found:
            total += int(found[1])
    return total


def count_instructions(name: str, load: list[str]) -> int:
    """One run: start under callgrind, one load, stop; all instructions of the process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*callgrind(f"{folder}/callgrind.%p"), *COMMANDS[name]()]
        environment = bare_environment()
        with Server(
            name, command, environment=environment, start_timeout_seconds=START_TIMEOUT_SECONDS
        ) as server:
            client = [sys.executable, "-m", "fastbcast", "load", f"{server.url}benchmark", *load]
            client += ["--warmup", "0", "--stall", str(STALL_SECONDS)]
            done = subprocess.run(client, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"the load generator failed ({done.returncode}): {done.stdout}{done.stderr}")
        if server.exit_code != 0:
            sys.exit(f"{name} did not stop cleanly ({server.exit_code}):\n{server.output[-2000:]}")
        total = read_total(list(Path(folder).iterdir()))
    if not total:
        sys.exit(f"callgrind left no total:\n{server.output[-2000:]}")
    return total


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", default=SUBJECT, choices=sorted(COMMANDS))
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--size", type=int, default=128, help="bytes of a message")
    parser.add_argument("--messages", type=int, nargs=2, default=(50, 250), metavar=("FEW", "MANY"))
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        parser.error("--repeat is at least 1")
    if arguments.messages[0] >= arguments.messages[1]:
        parser.error("--messages: the second count is the larger one")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    few, many = arguments.messages
    load = ["--clients", str(arguments.clients), "--size", str(arguments.size), "--judge", "all"]
    load += ["--in-flight", str(arguments.in_flight)]
    per_delivery: list[float] = []
    try:
        for _ in range(arguments.repeat):
            totals = [
                count_instructions(arguments.server, [*load, "--messages", str(count)]) for count in (few, many)
            ]
            if totals[1] <= totals[0]:
                sys.exit(f"nothing was counted: {many} messages took no more instructions than {few}: {totals}")
            per_delivery.append((totals[1] - totals[0]) / ((many - few) * arguments.clients))
            print(
                f"{arguments.server}: {totals[0]:,} instructions for {few} messages, {totals[1]:,} for {many}:"
                f" {per_delivery[-1]:,.1f} per delivery ({arguments.clients} clients, {arguments.size} bytes)"
            )
    except ServerUnavailable as unavailable:
        print(f"instructions.py: {unavailable}", file=sys.stderr)
        return 2
    except FileNotFoundError as missing:
        print(f"instructions.py: {missing.filename} is not installed", file=sys.stderr)
        return 2
    if arguments.json:
        document = {
            "server": arguments.server,
            "clients": arguments.clients,
            "payload_bytes": arguments.size,
            "in_flight_messages": arguments.in_flight,
            "messages": [few, many],
            "instructions_per_delivery": statistics.median(per_delivery),
            "repeats": per_delivery,
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
