"""Checks of the project itself that would be green although they looked at nothing: each says so, and fails."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import find_program, missing, seconds

ROOT = Path(__file__).parent.parent
fuzz = importlib.import_module("fuzz.run")


def run_program(*command, **options):
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=seconds(60), **options
    )
    return done.returncode, done.stdout + done.stderr


def test_a_test_with_a_table_of_no_rows_fails(tmp_path):
    file = tmp_path / "test_empty.py"
    file.write_text("import pytest\n@pytest.mark.parametrize('row', [])\ndef test_row(row):\n    pass\n")
    status, output = run_program(
        sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, "-p", "no:cacheprovider",
        file,
    )
    assert status != 0
    assert "Empty parameter set" in output


def test_a_package_is_not_compared_with_sources_that_are_not_there(tmp_path):
    status, output = run_program(sys.executable, ROOT / ".ci/check_dist.py", tmp_path, cwd=tmp_path)
    assert status == 1
    assert "there is no fastbcast/*.pyx here to compare with" in output


def test_make_does_nothing_where_there_are_no_modules_and_tests(tmp_path):
    status, output = run_program(find_program("make"), "-n", "-f", ROOT / "Makefile", "types", cwd=tmp_path)
    assert status != 0
    assert "here is no fastbcast/*.pyx" in output


# The fuzzer's lines.

NOTHING = ["INFO: Seed: 1", "#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 40Mb", "#2\tDONE cov: 10 ft: 11"]
CORPUS = ["#32\tpulse  cov: 70 ft: 80", "#40\tINITED cov: 90 ft: 200 corp: 30/2Kb exec/s: 0 rss: 40Mb"]
SEARCHED = ["#50\tNEW    cov: 91 ft: 201 corp: 31/2Kb", "#9000\tDONE   cov: 95 ft: 230 corp: 33/3Kb"]


def said(*lines):
    return [one for one in map(fuzz.read_line, lines) if one is not None]


@pytest.mark.parametrize(
    ("of_nothing", "of_corpus", "emptiness"),
    [
        (NOTHING, [*CORPUS, *SEARCHED], None),
        ([], [*CORPUS, *SEARCHED], "nothing of the code is seen"),
        (["#2\tINITED exec/s: 0"], [*CORPUS, *SEARCHED], "nothing of the code is seen"),
        (NOTHING, [], "no input was tried"),
        (NOTHING, [*CORPUS, "#40\tDONE   cov: 90 ft: 200"], "no input was tried"),
        (NOTHING, ["#1\tINITED cov: 29 ft: 30", *SEARCHED], "the corpus reaches 29 places of the code"),
    ],
)
def test_a_search_of_the_fuzzer_that_tried_nothing_is_found(of_nothing, of_corpus, emptiness):
    found = fuzz.find_emptiness(said(*of_nothing), said(*of_corpus))
    assert found is None if emptiness is None else found.startswith(emptiness)


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["no-such-target"]])
def test_the_fuzzer_refuses_what_it_cannot_do(arguments):
    assert run_program(sys.executable, ROOT / "tests/fuzz/run.py", *arguments)[0] == 2


# The sanitizers.

CHECK = ROOT / ".ci/check_sanitizers.py"


@pytest.fixture
def build(tmp_path):
    """Make a folder with a package and a module in it, compiled with these options."""

    def make(*options):
        package = tmp_path / "fastbcast"
        package.mkdir()
        (package / "__init__.py").touch()
        source = tmp_path / "module.c"
        source.write_text("int look(int *values, int at) { return values[at] + at; }\n")
        command = [find_program("gcc"), "-shared", "-fPIC", *options, source, "-o", package / "module.so"]
        status, output = run_program(*command)
        if status:
            missing(f"gcc cannot build with {options}: {output}")
        return tmp_path

    return make


def check(folder, **environment):
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"} | environment
    return run_program(sys.executable, CHECK, folder, env=environment | {"PYTHONPATH": str(folder)})


SANITIZED = ("-fsanitize=address,undefined",)


def test_sanitizers_that_are_built_in_and_loaded_are_found(build):
    folder = build(*SANITIZED)
    runtimes = [run_program("gcc", f"-print-file-name={name}.so")[1].strip() for name in ("libasan", "libubsan")]
    assert check(folder, LD_PRELOAD=" ".join(runtimes), ASAN_OPTIONS="detect_leaks=0") == (0, "")


def test_without_their_runtimes_nothing_would_be_found(build):
    status, output = check(build(*SANITIZED))
    assert status == 1
    assert "the runtime libasan is not loaded" in output
    assert "has no" not in output


def test_a_module_that_is_not_instrumented_is_named(build):
    status, output = check(build())
    assert status == 1
    assert "module.so has no address sanitizer" in output
    assert "module.so has no undefined-behaviour sanitizer" in output


def test_a_folder_without_modules_and_a_package_from_elsewhere_are_no_build_to_test(tmp_path):
    status, output = check(tmp_path / "empty")
    assert status == 1
    assert "there is no compiled module" in output
    assert "fastbcast is imported from" in output
