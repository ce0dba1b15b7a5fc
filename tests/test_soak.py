"""benchmarks/soak.py in short: after thousands of connections that ended in every way the server holds what it held."""

import os
import sys
from dataclasses import replace

import pytest
import soak
from conftest import seconds

IDLE = soak.Sample(
    clients=0, descriptors=12, tasks=2, objects=23_000, channels=1, subscriptions=0, rss_bytes=33 * soak.MIB,
    disconnects={},
)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_server_holds_nothing_of_the_connections_that_ended(loop, capsys):
    # asyncio's memory comes and goes in pieces of more than a megabyte, which would be taken for growth: twice as many
    # connections, and twice as much tolerated, which is as much for each.
    connections, tolerated_mib = ("6000", "4") if loop == "asyncio" else ("3000", "2")
    if "FASTBCAST_SANITIZERS" in os.environ:    # their allocator keeps what is freed
        tolerated_mib = "1000"
    arguments = ["--connections", connections, "--tolerated-mib", tolerated_mib]
    assert soak.main([*arguments, "--seconds", str(seconds(60)), "--loop", loop]) == 0
    output = capsys.readouterr().out
    for cause in ("client", "connection_lost", "protocol_error", "slow_consumer"):
        assert cause in output


@pytest.mark.parametrize(
    ("name", "growth"),
    [("descriptors", 1), ("tasks", 1), ("channels", 1), ("objects", 500), ("rss_bytes", 3 * soak.MIB)],
)
def test_what_grows_is_named(name, growth):
    grown = replace(IDLE, **{name: getattr(IDLE, name) + growth})
    (fault,) = soak.find_growth(IDLE, grown, tolerated_rss_bytes=2 * soak.MIB)
    assert fault.startswith(name)
    assert soak.find_growth(grown, IDLE, tolerated_rss_bytes=0) == []


def test_noise_is_no_growth():
    noisy = replace(IDLE, objects=IDLE.objects + 50, rss_bytes=IDLE.rss_bytes + soak.MIB, disconnects={"client": 1})
    assert soak.find_growth(IDLE, noisy, tolerated_rss_bytes=2 * soak.MIB) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_to_which_nobody_got_through_was_not_measured(monkeypatch, capsys):
    monkeypatch.setattr(soak, "ENDS", [soak.nothing_sent, soak.half_a_handshake])
    assert soak.main(["--connections", "100", "--seconds", str(seconds(60))]) == 1
    assert "FAULT: only 0 of 100 connections became clients: nothing was measured" in capsys.readouterr().out


def test_clients_that_are_still_there_are_a_fault():
    (fault,) = soak.find_idleness(replace(IDLE, clients=2, disconnects={"client": 80}), 100)
    assert fault.startswith("2 clients are still there")
    assert soak.find_idleness(replace(IDLE, disconnects={"client": 30, "connection_lost": 20}), 100) == []


def test_fewer_connections_than_samples_are_refused():
    with pytest.raises(SystemExit, match="2"):
        soak.main(["--connections", "9"])


def test_what_is_not_done_in_time_has_a_status_of_its_own(capsys):
    assert soak.main(["--connections", "100000", "--seconds", "2"]) == 2
    assert "not done" in capsys.readouterr().err
