"""Fuzz what reads a client's bytes, guided by the coverage of the code: `make fuzz`.

    make fuzz                           # each target for 30 s
    make fuzz ARGS="parser --seconds 3600"
    make fuzz ARGS=--merge              # add to the repository's corpus what reaches more than it does

It starts from the corpus in tests/fuzz/corpus. What it finds is kept in build/fuzzed, to be taken up again, and so is
an input that fails. If it sees nothing of the code, it fails: a build that is not instrumented looks like code without
branches, and the corpus never grows.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "build/fuzz/lib"
FOUND = HERE.parents[1] / "build/fuzzed"
TARGETS = ["parser", "head"]
MAX_INPUT_BYTES = 400
INPUT_TIMEOUT_SECONDS = 10      # libFuzzer's own, for one input
MAX_MEMORY_MIB = 1024
# The corpus must reach so many times the code that an empty input does.
LEAST_GROWTH = 3


def fuzz(target, *arguments):
    """Run libFuzzer and show what it says; returns the coverage that its lines tell, from first to last."""
    import atheris

    environment = os.environ | {
        "LD_PRELOAD": os.path.join(atheris.path(), "asan_with_fuzzer.so"),
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=64",
        "PYTHONMALLOC": "malloc",       # or the sanitizer sees pools of Python's, not what is in them
        "PYTHONPATH": str(PACKAGE),
    }
    process = subprocess.Popen(
        [sys.executable, HERE / "child.py", target, f"-max_len={MAX_INPUT_BYTES}", f"-timeout={INPUT_TIMEOUT_SECONDS}",
         f"-rss_limit_mb={MAX_MEMORY_MIB}", f"-artifact_prefix={FOUND}/{target}-", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment,
    )
    coverage = []
    for line in process.stdout:
        match = re.match(r"#\d+\s+(\w+)\s+(?:cov: (\d+))?", line)
        if match:
            coverage.append(int(match[2] or 0))
        if match is None or match[1] not in ("NEW", "REDUCE"):
            print(line, end="", flush=True)
    if process.wait():
        sys.exit(f"{target}: failed; the input is in {FOUND}")
    return coverage


def merge(target, found, corpus):
    fuzz(target, "-merge=1", corpus, found)


def search(target, found, corpus, seconds):
    with tempfile.TemporaryDirectory() as empty:
        of_nothing = fuzz(target, "-runs=1", empty)[0]
    if not of_nothing:
        sys.exit(f"{target}: nothing of the code is seen; is it built with FASTBCAST_BUILD=fuzz?")
    coverage = fuzz(target, f"-max_total_time={seconds}", found, corpus)
    if coverage[0] < LEAST_GROWTH * of_nothing:
        sys.exit(f"{target}: the corpus reaches {coverage[0]} places of the code, an empty input {of_nothing}")
    print(f"{target}: an empty input reaches {of_nothing} places of the code, the corpus {coverage[0]}, "
          f"and after {seconds} s {coverage[-1]}; nothing failed")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=TARGETS, help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=30, help="how long each target is fuzzed (default 30)")
    parser.add_argument("--merge", action="store_true", help="add what was found to the repository's corpus")
    arguments = parser.parse_args()
    for target in arguments.targets:
        found, corpus = FOUND / target, HERE / "corpus" / target
        found.mkdir(parents=True, exist_ok=True)
        if arguments.merge:
            merge(target, found, corpus)
        else:
            search(target, found, corpus, arguments.seconds)


if __name__ == "__main__":
    main()
