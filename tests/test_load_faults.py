"""`fastbcast load` finds what is wrong with a server: faults are planted in a relay that is not ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import seconds

RELAY = Path(__file__).parent / "faulty_relay.py"
WRONG = ("missing", "doubled", "reordered", "corrupt", "lost")


@pytest.fixture
def load(start_process, tmp_path):
    """Load a relay with a fault: gives the exit status, the figures and what was printed."""

    def load(fault, value, *options):
        server = start_process([sys.executable, str(RELAY), fault, str(value)])
        path = tmp_path / "result.json"
        done = subprocess.run(
            [sys.executable, "-m", "fastbcast", "load", server.url, "--json", str(path), *options],
            capture_output=True, text=True, timeout=seconds(60),
        )
        assert path.exists(), done.stdout + done.stderr
        return done.returncode, json.loads(path.read_text()), done.stdout

    return load


def wrong(result):
    return {name: result[name] for name in WRONG if result[name]}


FOUR_THOUSAND = ("--clients", "20", "--messages", "1000", "--in-flight", "16", "--warmup", "10")


@pytest.mark.parametrize(
    ("fault", "every", "name", "count"),
    [
        ("drop", 10_000, "missing", 2),
        ("double", 10_000, "doubled", 2),
        ("swap", 10_000, "reordered", 2),
        ("damage", 10_000, "corrupt", 2),
        ("drop", 1_000, "missing", 20),
    ],
)
def test_one_delivery_in_so_many_that_goes_wrong_is_found(load, fault, every, name, count):
    status, result, output = load(fault, every, *FOUR_THOUSAND)
    assert status == 1
    expected = {name: count}
    if fault == "damage":
        expected["missing"] = count     # its place stays empty
    assert wrong(result) == expected
    assert f"✗ {count} messages {name}" in output


def test_one_client_that_is_late_is_found(load):
    status, result, output = load("delay", 0.2, "--clients", "20", "--messages", "20", "--in-flight", "4")
    assert status == 1
    assert wrong(result) == {}
    assert result["late"]["count"] == 1
    assert "✗ 1 clients late" in output


def test_a_client_that_is_closed_is_found_with_its_code(load):
    status, result, output = load("close", 700, "--clients", "20", "--messages", "40")
    assert status == 1
    assert result["lost"] == 1
    assert result["closes"] == {"1011": 1}
    assert "✗ 1 connections ended by the server (1011: 1)" in output


def test_without_one_of_its_publishers_a_run_ends(load):
    status, result, _ = load(
        "unplug", 9, "--clients", "4", "--publishers", "2", "--rate", "200", "--messages", "10000", "--warmup", "0",
        "--stall", "0.3",
    )
    assert status == 1
    assert result["lost"] == 1
    assert 0 < result["published"] < 10000


def test_slow_clients_that_have_seen_their_end_are_gone(load):
    _, result, _ = load(
        "close", 1, "--clients", "4", "--slow", "2:1MB/s", "--messages", "1", "--warmup", "0", "--settle", "1"
    )
    assert result["slow_clients"]["closes"] == {"1011": 2}
    assert (result["slow_clients"]["open"], result["slow_clients"]["gone"]) == (0, 2)


@pytest.mark.parametrize("judge", ["all", "first"])
def test_without_a_fault_nothing_is_found(load, judge):
    status, result, output = load("fragment", 50, "--clients", "20", "--messages", "100", "--judge", judge)
    assert wrong(result) == {}
    assert status == 0, output
    assert result["deliveries"] == 2000
    assert result["published"] == 100
    assert "✓" in output


def test_a_message_lost_in_lock_step_does_not_end_the_run(load):
    status, result, _ = load("drop", 150, "--clients", "5", "--messages", "80", "--stall", "0.3")
    assert status == 1
    assert wrong(result) == {"missing": 3}
    assert result["deliveries"] == 5 * 80 - 3
    assert not result["stopped"]


def test_a_server_that_relays_nothing_is_named(load):
    status, result, output = load("drop", 1, "--clients", "5", "--messages", "100", "--stall", "0.2")
    assert status == 1
    assert result["stopped"]
    assert "no message arrived: does the server send what a client says to all clients of its URL?" in output


@pytest.mark.parametrize(("prefix", "status"), [("ti", 0), ("tock", 1)])
def test_a_server_that_only_sends_is_listened_to(load, prefix, status):
    options = ("--clients", "5", "--duration", "0.5", "--expect-prefix", prefix)
    found, result, _ = load("push", 0.005, *options)
    assert found == status
    assert result["deliveries"] > 0
    assert result["published"] == 0
    assert (result["corrupt"] > 0) == (status == 1)
