"""What `fastbcast load` says of a run that measured nothing: terminal, JSON, page and exit status say the same."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import seconds

LOAD = [sys.executable, "-m", "fastbcast", "load"]
RELAY = Path(__file__).parent / "faulty_relay.py"
NO_VERDICT = "No verdict: nothing was measured"


@pytest.fixture
def load(tmp_path):
    """Load a server: gives the figures, what was printed, and what the page says first."""

    def load(url, *arguments, status):
        files = tmp_path / "result.json", tmp_path / "result.html"
        command = [*LOAD, url, "--json", str(files[0]), "--html", str(files[1]), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds(60))
        assert done.returncode == status, done.stdout + done.stderr
        result, page = json.loads(files[0].read_text()), files[1].read_text()
        headline = html.unescape(re.search(r'id="verdict">([^<]*)<', page)[1])
        assert result["verdict"]["text"] == headline
        assert done.stdout.splitlines()[-1] == f"{'✗' if status else '✓'} {headline}"
        for problem in result["problems"]:
            assert f"✗ {problem}" in done.stdout
            assert problem in html.unescape(page)
        assert bool(result["problems"]) == bool(status)
        return result, done.stdout, html.unescape(page)

    return load


@pytest.fixture
def ticker(start_process):
    """A server that sends "tick" to each client, again and again."""
    return start_process([sys.executable, str(RELAY), "push", "0.01"]).url


@pytest.mark.parametrize("options", [["--listen"], ["--expect-prefix", "{"]])
def test_without_a_message_there_is_no_verdict(serve_process, load, options):
    result, output, _ = load(serve_process().url, "--clients", "3", "--duration", "0.1", *options, status=1)
    assert result["verdict"] == {"kind": "doubtful", "text": NO_VERDICT}
    assert [result[name] for name in ("missing", "doubled", "reordered", "corrupt")] == [None] * 4
    assert " not known: missing, doubled, reordered, corrupt" in output
    assert "✓" not in output
    assert "not known (bytes on the wire each)" in output


def test_a_server_that_relays_nothing_has_no_verdict(start_process, load):
    server = start_process([sys.executable, str(RELAY), "drop", "1"])   # each delivery is left out
    result, _, _ = load(
        server.url, "--clients", "2", "--messages", "2", "--stall", "0.2", "--warmup", "0", status=1
    )
    assert "no message arrived" in result["problems"][0]


def test_a_count_of_messages_that_never_came_meets_no_requirement(serve_process, load):
    result, output, _ = load(
        serve_process().url, "--clients", "2", "--listen", "--duration", "0.1", "--require", "corrupt=0", status=1
    )
    assert result["requirements"] == [{"text": "corrupt=0", "is_met": False, "found": "it could not be measured"}]
    assert "✗ not met: corrupt=0: it could not be measured" in output
    assert result["verdict"]["text"] == NO_VERDICT


def test_what_listeners_cannot_know_is_not_named_as_checked(ticker, load):
    result, output, _ = load(ticker, "--clients", "2", "--listen", "--duration", "0.3", status=0)
    assert result["deliveries"] > 0
    assert result["verdict"]["text"].endswith("Not known: what is missing, doubled, reordered or corrupt")
    assert result["late"]["count"] is None
    result, output, _ = load(ticker, "--clients", "2", "--expect-prefix", "ti", "--duration", "0.3", status=0)
    assert " 0 corrupt; not known: missing, doubled, reordered" in output
    assert "no message was corrupt" in result["verdict"]["text"]


def test_idle_clients_are_judged_by_their_connections_alone(serve_process, load):
    result, _, page = load(serve_process().url, "--clients", "3", "--idle", "--duration", "0.1", status=0)
    assert result["verdict"]["text"] == "No connection was lost; messages were not judged"
    assert "Nothing was published and nothing expected" in page


def test_a_requirement_that_is_met_is_shown_with_its_unit(serve_process, load):
    result, output, page = load(
        serve_process("--relay").url, "--clients", "2", "--messages", "5", "--require", "p99<1000s",
        "--require", "missing=0", status=0,
    )
    latency, missing = result["requirements"]
    assert re.fullmatch(r"it is [\d.]+ (µs|ms|s)", latency["found"])
    assert f"✓ required p99<1000s: {latency['found']}" in output
    assert missing == {"text": "missing=0", "is_met": True, "found": "it is 0"}
    assert "missing=0</span>: it is 0" in page


def test_churn_in_which_nobody_left_is_a_problem(serve_process, load):
    result, _, _ = load(
        serve_process("--relay").url, "--clients", "4", "--messages", "1", "--churn", "0.001", status=1
    )
    assert result["problems"] == [
        "--churn was not measured: no client left before the end of the run (a longer run, or more)"
    ]


def test_messages_are_skipped_for_slow_clients_only_and_without_them_nobody_knows(serve_process, load):
    arguments = (serve_process("--relay").url, "--clients", "3", "--messages", "2", "--require", "skipped=0")
    result, _, _ = load(*arguments, status=1)
    assert result["skipped"] is None
    result, _, _ = load(*arguments, "--slow", "1:bursts", status=0)
    assert result["skipped"] == 0


def test_slow_clients_that_were_never_behind_are_noted(serve_process, load):
    url = serve_process("--relay").url
    result, _, _ = load(url, "--clients", "3", "--slow", "1:stall", "--messages", "2", status=0)
    assert result["slow_clients"]["behind"] == 0
    assert any(note.startswith("the slow clients were never behind") for note in result["notes"])
    result, _, _ = load(
        url, "--clients", "3", "--slow", "1:stall", "--messages", "200", "--size", "64KiB", "--in-flight", "8", status=0
    )
    assert not any(note.startswith("the slow clients were never behind") for note in result["notes"])


def test_one_client_alone_is_not_late_and_nobody_knows_whether_it_would_be(serve_process, load):
    result, output, _ = load(
        serve_process("--relay").url, "--clients", "1", "--messages", "2", "--require", "late=0", status=1
    )
    assert result["late"]["count"] is None
    assert "✗ not met: late=0: it could not be measured" in output
