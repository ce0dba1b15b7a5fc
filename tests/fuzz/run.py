"""Fuzz what reads a client's bytes, guided by the coverage of the code: `make fuzz`.

    make fuzz                           # each target for 30 s
    make fuzz ARGS="parser --seconds 3600"
    make fuzz ARGS=--merge              # add to the repository's corpus what reaches more than it does

It starts from the corpus in tests/fuzz/corpus. What it finds is kept in build/fuzzed, to be taken up again, and so is
an input that fails. If it sees nothing of the code, it fails: a build that is not instrumented looks like code without
branches, and the corpus never grows. It also fails if no input was tried but those that it started from.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "build/fuzz/lib"
FOUND = HERE.parents[1] / "build/fuzzed"
TARGETS = ["parser", "head"]
MAX_INPUT_BYTES = 400
INPUT_TIMEOUT_SECONDS = 10      # libFuzzer's own, for one input
MAX_MEMORY_MIB = 1024
# The corpus must reach so many times the code that an empty input does.
LEAST_GROWTH = 3
NOTHING_SEEN = "nothing of the code is seen; is it built with FASTBCAST_BUILD=fuzz?"


class Said(NamedTuple):
    """A line of libFuzzer's: after how many inputs, what happened, and how many places of the code they reached."""

    inputs: int
    event: str
    coverage: int


def read_line(line):
    """A Said; None for a line of another kind."""
    match = re.match(r"#(\d+)\s+(\w+)\s+(?:cov: (\d+))?", line)
    return match and Said(int(match[1]), match[2], int(match[3] or 0))


def fuzz(target, *arguments):
    """Run libFuzzer and show what it says; returns the Saids, from first to last."""
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
    all_said = []
    for line in process.stdout:
        said = read_line(line)
        if said is not None:
            all_said.append(said)
        if said is None or said.event not in ("NEW", "REDUCE"):
            print(line, end="", flush=True)
    if process.wait():
        sys.exit(f"{target}: failed; the input is in {FOUND}")
    return all_said


def find_emptiness(of_nothing, of_corpus):
    """Why a search has measured nothing, from what libFuzzer said of an empty input and of it; None if it has."""
    if not of_nothing or not of_nothing[0].coverage:
        return NOTHING_SEEN
    begin = next((said for said in of_corpus if said.event == "INITED"), None)
    if begin is None or of_corpus[-1].inputs <= begin.inputs:
        return "no input was tried but those of the corpus"
    if begin.coverage < LEAST_GROWTH * of_nothing[0].coverage:
        return f"the corpus reaches {begin.coverage} places of the code, an empty input {of_nothing[0].coverage}"
    return None


def try_nothing(target):
    """What libFuzzer says of an empty input."""
    with tempfile.TemporaryDirectory() as empty:
        return fuzz(target, "-runs=1", empty)


def merge(target, found, corpus):
    if not any(found.iterdir()):
        sys.exit(f"{target}: nothing was found yet that could be merged: fuzz without --merge first")
    if not any(said.coverage for said in try_nothing(target)):
        sys.exit(f"{target}: {NOTHING_SEEN}")
    fuzz(target, "-merge=1", corpus, found)


def search(target, found, corpus, seconds):
    of_nothing = try_nothing(target)
    of_corpus = fuzz(target, f"-max_total_time={seconds}", found, corpus)
    if emptiness := find_emptiness(of_nothing, of_corpus):
        sys.exit(f"{target}: nothing was measured: {emptiness}")
    print(f"{target}: an empty input reaches {of_nothing[0].coverage} places of the code, the corpus "
          f"{of_corpus[0].coverage}, and after {seconds} s and {of_corpus[-1].inputs:,} inputs "
          f"{of_corpus[-1].coverage}; nothing failed")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=TARGETS, help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=30, help="how long each target is fuzzed (default 30)")
    parser.add_argument("--merge", action="store_true", help="add what was found to the repository's corpus")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if arguments.seconds < 1:  # to libFuzzer 0 is for ever
        parser.error("--seconds is at least 1")
    for target in arguments.targets:
        found, corpus = FOUND / target, HERE / "corpus" / target
        found.mkdir(parents=True, exist_ok=True)
        if arguments.merge:
            merge(target, found, corpus)
        else:
            search(target, found, corpus, arguments.seconds)


if __name__ == "__main__":
    main()
