"""What the fuzzer starts from holds on every build, and where there is no clang."""

import importlib
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "fuzz/corpus"


@pytest.mark.parametrize("target", sorted(folder.name for folder in CORPUS.iterdir()))
def test_the_fuzzed_code_agrees_with_the_slow_one_on_the_whole_corpus(target):
    check = importlib.import_module(f"fuzz.{target}").check
    inputs = sorted((CORPUS / target).iterdir())
    assert inputs
    for file in inputs:
        check(file.read_bytes())
