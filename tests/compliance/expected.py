"""What must come of each case of the Autobahn test suite: who closes, with which code, and nothing but OK.

The suite's own verdict is not enough: of a server that keeps a broken connection open it says OK as soon as its own
client hangs up. So who sent the first CLOSE is compared with this table, and that the server's CLOSE has the right
code, that the closing handshake was whole, and that it was the server who then closed the TCP connection. And a server
that sends back what was compressed as it was before would be right, too.
"""

import re
from fnmatch import fnmatchcase
from typing import NamedTuple

CLOSE = 0x8
SUITE, SERVER = "suite", "server"
# Of what the suite's client makes smaller than this, by its own compression, the server's must be smaller, too.
WORTH_COMPRESSING = 0.9
SAME = None                 # the code of the suite's CLOSE comes back (RFC 6455 section 5.5.1), or none if it had none


class Expectation(NamedTuple):
    cases: str              # patterns of case numbers
    first_close: str        # whose CLOSE was the first
    code: int | None        # of the server's CLOSE
    reason: str


# Of those that match, the first counts.
EXPECTATIONS = (
    Expectation("1.*", SUITE, SAME, "text and binary messages of every form of length come back (5.2)"),
    Expectation("2.5", SERVER, 1002, "a ping of 126 bytes (5.5)"),
    Expectation("2.*", SUITE, SAME, "pings are answered, pongs are not (5.5.2, 5.5.3)"),
    Expectation("3.*", SERVER, 1002, "reserved bits (5.2)"),
    Expectation("4.*", SERVER, 1002, "reserved opcodes (5.2)"),
    Expectation("5.1 5.2", SERVER, 1002, "control frames in fragments (5.5)"),
    Expectation("5.9 5.1[0-7]", SERVER, 1002, "a continuation of nothing (5.4)"),
    Expectation("5.18", SERVER, 1002, "a new message inside a fragmented one (5.4)"),
    Expectation("5.*", SUITE, SAME, "fragments are joined, with control frames between them (5.4)"),
    Expectation("6.6.[2579] 6.6.11", SUITE, SAME, "text that grows by a byte, where its last character is whole"),
    Expectation("6.11.[1-4]", SUITE, SAME, "characters at the bounds of what UTF-8 can be"),
    Expectation("6.[3468].* 6.1[0-9].* 6.2[01].*", SERVER, 1007, "text that is not UTF-8 (8.1)"),
    Expectation("6.*", SUITE, SAME, "text that is UTF-8, cut anywhere, comes back (8.1)"),
    Expectation("7.1.*", SUITE, SAME, "what follows a CLOSE is not looked at (5.5.1)"),
    Expectation("7.3.2", SUITE, 1002, "a CLOSE with half a code (5.5.1)"),
    Expectation("7.3.6", SUITE, 1002, "a CLOSE of 126 bytes (5.5)"),
    Expectation("7.3.*", SUITE, SAME, "a CLOSE with and without code and reason (5.5.1)"),
    Expectation("7.5.1", SUITE, 1007, "a reason that is not UTF-8 (5.5.1)"),
    Expectation("7.7.*", SUITE, SAME, "codes that may be sent (7.4)"),
    Expectation("7.9.* 7.13.*", SUITE, 1002, "codes that may not be sent (7.4)"),
    Expectation("9.*", SUITE, SAME, "messages of up to 16 MiB and 65,537 frames, in any chops"),
    Expectation("10.*", SUITE, SAME, "a message that the suite cuts into frames"),
    Expectation("1[23].*", SUITE, SAME, "compressed messages come back (RFC 7692)"),
)


def expectation_of(case_id):
    return next(
        (row for row in EXPECTATIONS if any(fnmatchcase(case_id, pattern) for pattern in row.cases.split())), None
    )


def read_explanations(page):
    """The table of a page in docs: {(case, result): why it is not OK}."""
    rows = re.findall(r"^\| ([\d.]+) \| ([A-Z-]+) \| (.+) \|$", page, re.MULTILINE)
    return {(case, result): why for case, result, why in rows}


def find_patterns_without_cases(case_ids, patterns):
    """Those of the suite's patterns that none of the cases is of: what they ask for was not tried."""
    return [pattern for pattern in patterns if not any(fnmatchcase(case, pattern) for case in case_ids)]


def find_unused(case_ids, explanations):
    """What is written down for cases that a run of all sections does not have (list of str): it says nothing."""
    faults = [
        f"expected.py: no case is one of {row.cases}" for row in EXPECTATIONS
        if all(expectation_of(case) is not row for case in case_ids)
    ]
    return faults + [
        f"docs/compliance.md: there is no case {case}" for case, _ in explanations if case not in case_ids
    ]


def find_faults(report, explanations):
    """All that is wrong with a case, as the suite's report on it tells (list of str)."""
    expectation = expectation_of(report["id"])
    if expectation is None:
        return ["no expectation is written down"]
    results = {report["behavior"], report["behaviorClose"]}
    faults = [
        f"docs/compliance.md says that it is {result}" for case, result in explanations
        if case == report["id"] and result not in results
    ]
    for result in sorted(results - {"OK"}):
        if result not in ("NON-STRICT", "INFORMATIONAL"):
            faults.append(f"{result}: {report['result']} {report['resultClose']}")
        elif (report["id"], result) not in explanations:
            faults.append(f"{result}, and nobody says why")
    code = report["localCloseCode"] if expectation.code is SAME else expectation.code
    if report["remoteCloseCode"] != code:
        faults.append(f"the server's CLOSE has code {report['remoteCloseCode']}, not {code}")
    if report["failedByMe"]:
        faults.append("the suite lost its patience, or found an error in what the server sent")
    elif report["closedByMe"] != (expectation.first_close == SUITE):
        faults.append(f"the first CLOSE should be the {expectation.first_close}'s")
    if not report["wasClean"]:
        faults.append(f"the closing handshake was not whole: {report['wasNotCleanReason']}")
    elif report["droppedByMe"]:
        faults.append("the suite, not the server, closed the TCP connection (7.1.1)")
    received_opcodes = [entry[2] for entry in report["wirelog"] if entry[0] == "RF"]  # section 9 keeps no log
    traffic = report["trafficStats"]        # of sections 12 and 13
    if traffic and traffic["outgoingCompressionRatio"] < WORTH_COMPRESSING <= traffic["incomingCompressionRatio"]:
        faults.append("what the server sent back was not compressed")
    if CLOSE in received_opcodes[:-1]:
        faults.append("the server sent something behind its CLOSE")
    return faults
