"""One target under libFuzzer: `child.py TARGET [libFuzzer's options and folders]`. run.py starts it."""

import importlib
import shlex
import sys
from pathlib import Path

import atheris

sys.path.append(str(Path(__file__).resolve().parents[1]))


def main():
    program, name, *arguments = sys.argv
    with atheris.instrument_imports(include=["fastbcast"]):     # of Python; what is compiled counts for itself
        target = importlib.import_module(f"fuzz.{name}")
    # A merge starts its first argument again, through a shell.
    atheris.Setup([shlex.join([sys.executable, program, name]), *arguments], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
