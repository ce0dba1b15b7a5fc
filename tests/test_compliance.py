"""The judgement on the Autobahn test suite's cases: a wrong close is found, whatever the suite says of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from compliance.expected import (
    SERVER,
    expectation_of,
    find_faults,
    find_patterns_without_cases,
    find_unused,
    read_explanations,
)

ECHOED = {
    "id": "1.1.1", "behavior": "OK", "behaviorClose": "OK", "result": "", "resultClose": "",
    "closedByMe": True, "failedByMe": False, "droppedByMe": False, "trafficStats": None,
    "wasClean": True, "wasNotCleanReason": None, "localCloseCode": 1000, "remoteCloseCode": 1000,
    "wirelog": [["TF", [2, "ab"], 1], ["RF", [2, "ab"], 1], ["TF", [2, ""], 8], ["RF", [2, ""], 8]],
}
REFUSED = ECHOED | {"id": "5.9", "closedByMe": False, "remoteCloseCode": 1002}
COMPRESSED = ECHOED | {
    "id": "12.1.5", "trafficStats": {"outgoingCompressionRatio": 0.1, "incomingCompressionRatio": 0.05},
}
EXPLAINED = {("7.1.6", "INFORMATIONAL"): "the RFC leaves it open"}


@pytest.mark.parametrize("report", [
    ECHOED,
    REFUSED,
    ECHOED | {"id": "7.3.1", "localCloseCode": None, "remoteCloseCode": None},
    ECHOED | {"id": "7.7.9", "localCloseCode": 1011, "remoteCloseCode": 1011},
    ECHOED | {"id": "7.9.1", "localCloseCode": 0, "remoteCloseCode": 1002},
    ECHOED | {"id": "7.1.6", "behavior": "INFORMATIONAL", "behaviorClose": "INFORMATIONAL"},
    ECHOED | {"wirelog": []},
    COMPRESSED,
    COMPRESSED | {"trafficStats": {"outgoingCompressionRatio": 0.98, "incomingCompressionRatio": 1.0}},
])
def test_a_right_case_has_no_faults(report):
    assert find_faults(report, EXPLAINED) == []


@pytest.mark.parametrize(("report", "fault"), [
    (ECHOED | {"behavior": "FAILED"}, "FAILED"),
    (ECHOED | {"behaviorClose": "WRONG CODE"}, "WRONG CODE"),
    (ECHOED | {"behavior": "UNIMPLEMENTED"}, "UNIMPLEMENTED"),
    (ECHOED | {"behavior": "NON-STRICT"}, "nobody says why"),
    (ECHOED | {"id": "7.1.6"}, "docs/compliance.md says that it is INFORMATIONAL"),
    (ECHOED | {"closedByMe": False}, "the first CLOSE should be the suite's"),
    (REFUSED | {"closedByMe": True}, "the first CLOSE should be the server's"),
    (REFUSED | {"closedByMe": True, "failedByMe": True}, "patience"),
    (REFUSED | {"remoteCloseCode": 1007}, "has code 1007, not 1002"),
    (REFUSED | {"remoteCloseCode": None}, "has code None, not 1002"),
    (ECHOED | {"remoteCloseCode": None}, "has code None, not 1000"),
    (ECHOED | {"wasClean": False, "wasNotCleanReason": "peer dropped"}, "not whole: peer dropped"),
    (ECHOED | {"droppedByMe": True}, "the suite, not the server, closed"),
    (ECHOED | {"wirelog": [*ECHOED["wirelog"], ["RF", [0, ""], 10]]}, "behind its CLOSE"),
    (ECHOED | {"id": "14.1"}, "no expectation"),
    (
        COMPRESSED | {"trafficStats": {"outgoingCompressionRatio": 0.1, "incomingCompressionRatio": 1.0}},
        "was not compressed",
    ),
])
def test_every_fault_is_found(report, fault):
    faults = find_faults(report, EXPLAINED)
    assert len(faults) == 1
    assert fault in faults[0]


@pytest.mark.parametrize(("payload", "case"), [
    ("ce", "6.6.1"), ("ceba", "6.6.2"), ("cebae1", "6.6.3"), ("cebae1bdb9cf83cebcce", "6.6.10"),
    ("cebae1bdb9cf83cebcceb5", "6.6.11"), ("7f", "6.9.1"), ("f7bfbfbf", "6.10.1"), ("f48fbfbf", "6.11.4"),
    ("f4908080", "6.11.5"), ("80", "6.12.1"), ("eda080", "6.20.1"), ("edafbfedbfbf", "6.21.8"),
    ("f48fbfbf", "6.22.34"), ("efbfb9", "6.23.1"),
])
def test_text_is_to_be_refused_where_python_says_that_it_is_not_utf8(payload, case):
    try:
        bytes.fromhex(payload).decode()
    except UnicodeDecodeError:
        assert expectation_of(case)[1:3] == (SERVER, 1007)
    else:
        assert expectation_of(case).code is None


def test_a_case_is_explained_by_the_line_of_its_table():
    page = "Text.\n\n| case | result | why |\n|---|---|---|\n| 7.1.6 | INFORMATIONAL | the RFC leaves it open |\n"
    assert read_explanations(page) == EXPLAINED


def test_a_pattern_that_no_case_is_of_is_found():
    assert find_patterns_without_cases(["1.1.1", "5.9", "5.10"], ["1.*", "5.1?", "99.*"]) == ["99.*"]


ONE_OF_EACH = [
    "1.1.1", "2.5", "2.1", "3.1", "4.1.1", "5.1", "5.9", "5.18", "5.3", "6.6.2", "6.11.1", "6.3.1", "6.1.1", "7.1.1",
    "7.3.2", "7.3.6", "7.3.1", "7.5.1", "7.7.1", "7.9.1", "9.1.1", "10.1.1", "12.1.1",
]


def test_what_is_written_down_of_cases_that_there_are_not_is_a_fault():
    assert find_unused([*ONE_OF_EACH, "7.1.6"], EXPLAINED) == []
    assert find_unused(ONE_OF_EACH, EXPLAINED) == ["docs/compliance.md: there is no case 7.1.6"]
    assert find_unused(ONE_OF_EACH[:-1], {}) == ["expected.py: no case is one of 1[23].*"]


def test_the_page_explains_cases():
    page = Path(__file__).parent.parent / "docs/compliance.md"
    assert {case for case, _ in read_explanations(page.read_text())} == {"7.1.6", "7.13.1", "7.13.2"}


def test_who_has_no_python_27_is_told_how_to_get_it(tmp_path):
    result = subprocess.run(
        [sys.executable, Path(__file__).parent / "compliance/suite.py", tmp_path / "suite"],
        env=os.environ | {"PATH": str(tmp_path), "PYTHON27": ""}, capture_output=True, text=True,
    )
    assert result.returncode == 1
    assert "pyenv install 2.7.18" in result.stderr
