"""pytest's plugin in projects of their own: how it gets there, how it fails, and examples/pytest-project."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import seconds

PROJECT = Path(__file__).parent.parent / "examples" / "pytest-project"


def run_pytest(folder, *arguments, plugin=("-p", "pytest_fastbcast")):
    """Run pytest in a process of its own, in `folder`; return (exit status, output)."""
    command = [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST_")}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds(120), check=False
    )
    return done.returncode, done.stdout + done.stderr


def run_test(folder, source, *arguments):
    """The same with one file of tests; no plugin but ours."""
    folder.joinpath("test_it.py").write_text(source)
    return run_pytest(folder, "-p", "no:asyncio", "-W", "error", "--strict-markers", "--color=no", *arguments)


# The project.


def test_the_example_project_passes():
    status, output = run_pytest(PROJECT, "--benchmark-disable-gc", "--benchmark-max-time=0.1")
    assert status == 0, output
    assert "7 passed" in output
    assert "test_an_update_reaches_100_clients" in output  # the benchmark's table


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.hub.publish(", "None and self.hub.publish("),
        ("client.send(json.dumps(self.known))", "pass"),
        ('hub.configure("prices", policy="conflate")', "pass"),
    ],
)
def test_the_example_project_notices_what_is_broken(tmp_path, old, new):
    source = PROJECT.joinpath("prices.py").read_text()
    assert source.count(old) == 1
    tmp_path.joinpath("prices.py").write_text(source.replace(old, new))
    for path in ("pyproject.toml", "tests/conftest.py", "tests/test_prices.py"):
        tmp_path.joinpath(path).parent.mkdir(exist_ok=True)
        tmp_path.joinpath(path).write_bytes(PROJECT.joinpath(path).read_bytes())
    status, output = run_pytest(tmp_path)
    assert status == 1, output


# How it gets into pytest.


def test_it_is_registered_by_its_entry_point(tmp_path):
    try:
        importlib.metadata.distribution("fastbcast")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed: a build's folder is on the path")
    found = importlib.metadata.entry_points(group="pytest11", name="pytest_fastbcast")
    assert [entry.value for entry in found] == ["pytest_fastbcast"]
    _, output = run_pytest(tmp_path, "-p", "no:asyncio", "--fixtures", plugin=())
    for name in ("broadcast_server", "fleet", "slow_client"):
        assert f"\n{name} -- " in output, output


def test_the_fixtures_and_the_marker_are_documented(tmp_path):
    _, output = run_pytest(tmp_path, "-p", "no:asyncio", "--fixtures", "-v")
    assert "fleet(count, channel=" in output
    assert 'slow_client(rate="stall"' in output
    _, output = run_pytest(tmp_path, "-p", "no:asyncio", "--markers")
    assert "@pytest.mark.broadcast_server(relay=False, **settings)" in output


def test_nothing_is_imported_before_a_fixture_is_used(tmp_path):
    source = """
import sys

def test_before():
    assert not [name for name in sys.modules if name.split(".")[0] in ("fastbcast", "picows", "uvloop")]

def test_after(broadcast_server):
    assert "fastbcast" in sys.modules
"""
    status, output = run_test(tmp_path, source, "-p", "no:anyio")
    assert status == 0, output


WRONG = {
    "@pytest.mark.broadcast_server(max_lag_byte=1)\ndef test_{}(broadcast_server): pass":
        "broadcast_server: there is no setting 'max_lag_byte': did you mean max_lag_bytes?",
    "@pytest.mark.broadcast_server(policy='drop')\ndef test_{}(broadcast_server): pass":
        "broadcast_server: policy must be one of evict, skip, latest, conflate, got 'drop'",
    "@pytest.mark.broadcast_server('skip')\ndef test_{}(broadcast_server): pass":
        "broadcast_server: settings are given by name, not ('skip',)",
    "def test_{}(slow_client): slow_client('fast')": "or a number of bytes a second from 1, not 'fast'",
    "def test_{}(fleet): fleet(0)": "a fleet has at least 1 client, not 0",
    "def test_{}(fleet): fleet(1, 'a', url='ws://127.0.0.1:1/')": "a url says which server and channel",
    "def test_{}(fleet): fleet(1, '/a')": "no path names the channel '/a'",
    "def test_{}(fleet): fleet(2, url='ws://127.0.0.1:1/')": "not all of 2 clients can connect to ws://127.0.0.1:1/: ",
}


def test_what_is_wrong_is_said(tmp_path):
    source = "\n".join(["import pytest", *(wrong.format(number) for number, wrong in enumerate(WRONG))])
    status, output = run_test(tmp_path, source)
    assert status == 1, output
    assert [problem for problem in WRONG.values() if problem not in output] == [], output


def test_without_the_compiled_clients_only_what_needs_them_fails(tmp_path):
    source = """
import sys

sys.modules["fastbcast.load._audience"] = None

def test_clients(fleet): pass

def test_server(broadcast_server): broadcast_server.publish("default", "x")
"""
    _, output = run_test(tmp_path, source)
    assert "fleet and slow_client need fastbcast's compiled clients, which are built on Linux only" in output
    assert "1 passed, 1 error" in output


def test_the_fixtures_close_what_tests_leave_open(tmp_path):
    source = """
import json, pathlib

def test_it(fleet, slow_client, request):
    clients = fleet(3)
    slow_client()
    hub = request.getfixturevalue("broadcast_server").hub  # made after fleet, so it ends before it
    pathlib.Path("seen").write_text("[]")

    @hub.on_disconnect
    def note(client, disconnect):
        seen = json.loads(pathlib.Path("seen").read_text())
        pathlib.Path("seen").write_text(json.dumps([*seen, disconnect.code]))
"""
    status, output = run_test(tmp_path, source)
    assert status == 0, output
    assert json.loads(tmp_path.joinpath("seen").read_text()) == [1000] * 4
