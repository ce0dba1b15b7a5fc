"""The peers of the benchmark relay what they are sent, and each is measured.

Those that need more than these tests install are started where the benchmark is set up: `npm install` in
benchmarks/peers, BENCHMARK_PEERS_PYTHON (benchmarks/README.md).
"""

import os
import signal
from pathlib import Path

import deflate
import pytest
import scenarios
import servers
from conftest import seconds
from websockets.sync.client import connect

STARTED = ["picows", "picows-aiofastnet", "websockets"]
if "BENCHMARK_PEERS_PYTHON" in os.environ:
    STARTED += ["aiohttp", "starlette", "tornado", "socketify"]
if (servers.PEERS / "node_modules").is_dir():
    STARTED += ["ws", "bun"]


def recv(connection):
    return connection.recv(timeout=seconds(10))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", STARTED)
def test_a_peer_relays_to_all_until_a_signal_ends_it(name, number, start_process):
    messages = ["Grüße", b"\x00\xff", "again", b"again"]
    peer = start_process(servers.COMMANDS[name]())
    with connect(f"{peer.url}benchmark") as one, connect(f"{peer.url}benchmark") as other:
        one.send("one is there")
        assert recv(one) == "one is there"
        other.send("other is there")
        while recv(other) != "other is there":  # it may have been there before
            pass
        assert recv(one) == "other is there"
        for message in messages:
            one.send(message)
        for connection in (one, other):
            assert [recv(connection) for _ in messages] == messages
    status, _, errors = peer.stop(number)
    assert status in (0, -number), errors
    assert errors == ""


@pytest.fixture
def peer_commands(monkeypatch):
    """The commands of the scenario `peers`, and the modules that they ask an interpreter for."""
    modules = set()
    monkeypatch.setattr(servers, "require_module", lambda server, module, python=None: modules.add(module))
    monkeypatch.setattr(servers, "find_bun", lambda: "bun")
    monkeypatch.setattr(servers, "find_node", lambda: "node")
    return [servers.COMMANDS[name]() for name in scenarios.PEERS], modules


def test_every_program_in_peers_is_measured(peer_commands, monkeypatch):
    """By `run.py peers`, or, if it publishes a feed, by deflate.py."""
    commands, _ = peer_commands
    monkeypatch.setattr(deflate, "require_module", lambda server, module, python=None: None)
    monkeypatch.setattr(deflate, "find_node", lambda: "node")
    commands = [*commands, *(deflate.feed_command(name, "deflate") for name in ("websockets", "ws"))]
    programs = {path for path in servers.PEERS.iterdir() if path.suffix in (".py", ".js")}
    assert {Path(command[1]) for command in commands} == programs


def test_every_case_of_peers_has_every_peer():
    cases = scenarios.peers()
    assert [set(scenarios.PEERS) - set(case.servers) for case in cases] == [set(), set()]


def test_every_module_of_a_python_peer_is_in_its_requirements(peer_commands):
    _, modules = peer_commands
    lines = (servers.PEERS / "requirements.txt").read_text().splitlines()
    pinned = {line.partition("==")[0] for line in lines if not line.startswith("#")}
    assert pinned == modules - {"picows"}  # fastbcast's own
