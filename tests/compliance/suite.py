"""Make the Autobahn test suite: it is written for Python 2.7, and gets an environment of its own.

    python tests/compliance/suite.py build/compliance/suite

PYTHON27 names the interpreter. Without it: python2.7 or pypy on PATH, then what pyenv has.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
NO_PYTHON27 = """\
The Autobahn test suite needs Python 2.7, and there is none: neither python2.7 nor pypy on PATH, nor in pyenv.
Install one (`pyenv install 2.7.18`; Debian had a package python2.7 up to its release 11), or name it:
PYTHON27=/path/to/python2.7"""


def candidates():
    if named := os.environ.get("PYTHON27"):
        yield named
        return
    yield from filter(None, map(shutil.which, ("python2.7", "pypy2", "pypy")))
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True).stdout.strip()
        for pattern in ("2.7*", "pypy2.7*"):
            yield from sorted(map(str, Path(root).glob(f"versions/{pattern}/bin/python")))


def is_python27(program):
    """Whether it runs and is one: what is on PATH may be pyenv's, which then says that it is not switched on."""
    try:
        result = subprocess.run(
            [program, "-c", "import sys; print(sys.version_info[:2] == (2, 7))"], capture_output=True, text=True
        )
    except OSError:
        return False
    return result.stdout.strip() == "True"


def make(folder):
    python = next(filter(is_python27, candidates()), None)
    if python is None:
        sys.exit(NO_PYTHON27)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([
        sys.executable, "-m", "virtualenv", "--quiet", "--no-periodic-update",
        "--app-data", folder.parent / "virtualenv", "--python", python, folder,
    ], check=True)
    subprocess.run([
        folder / "bin/python", "-W", "ignore", "-m", "pip", "--quiet", "--disable-pip-version-check", "install",
        "--no-deps", "--requirement", REQUIREMENTS,
    ], check=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
