"""How `fastbcast load` ends: interrupted, killed, or its output not to be had. Nothing stays behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from conftest import seconds
from websockets.sync.client import connect

from fastbcast.load.plan import Plan

LOAD = [sys.executable, "-m", "fastbcast", "load"]
RELAY = Path(__file__).parent / "faulty_relay.py"


@pytest.fixture
def relay(start_process):
    return lambda fault, value: start_process([sys.executable, str(RELAY), fault, str(value)]).url


@pytest.fixture
def start_load():
    """Start a load; what is left of it is killed at the end of the test."""
    started = []

    def start(*arguments, **options):
        started.append(subprocess.Popen([*LOAD, *arguments], **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for_children(process, count):
    """The processes of a load, once they are there and ignore SIGINT."""
    deadline = time.monotonic() + seconds(30)
    while True:
        children = psutil.Process(process.pid).children()
        if len(children) == count and all(_ignores_interrupts(child.pid) for child in children):
            return children
        assert process.poll() is None, "the load has ended"
        assert time.monotonic() < deadline, "they did not come"


def count_sockets(process):
    return sum(connection.status == "ESTABLISHED" for connection in process.net_connections("tcp"))


def _ignores_interrupts(pid):
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn:"))
    return bool(int(line.split()[1], 16) & 1 << (signal.SIGINT - 1))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(("fault", "value"), [("silent", 0), ("fragment", 64)])
def test_no_process_outlives_the_one_that_started_it(relay, start_load, number, fault, value):
    options = ("--clients", "30", "--processes", "3", "--duration", "600", "--connect-timeout", "600")
    process = start_load(relay(fault, value), *options)
    children = wait_for_children(process, 3)
    process.send_signal(number)
    _, alive = psutil.wait_procs(children, seconds(10))
    for child in alive:
        child.kill()
    assert alive == []


def test_a_bench_that_is_ended_leaves_no_server_behind():
    command = [sys.executable, "-m", "fastbcast", "bench", "--quick", "--clients", "100"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (children := psutil.Process(process.pid).children()):
            assert process.poll() is None, "the bench has ended"
        process.terminate()
        process.wait(seconds(30))
    _, alive = psutil.wait_procs(children, seconds(10))
    for child in alive:
        child.kill()
    assert alive == []


@pytest.mark.parametrize("options", [("--connect-timeout", "600"), ("--connect-rate", "0.001")])
def test_an_interrupt_is_heard_while_clients_connect(relay, start_load, tmp_path, options):
    path = tmp_path / "result.json"
    process = start_load(relay("silent", 0), "--clients", "20", "--json", str(path), *options, stdout=subprocess.PIPE)
    (child,) = wait_for_children(process, 1)
    while count_sockets(child) < (1 if "--connect-rate" in options else 20):
        assert process.poll() is None, "the load has ended"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=seconds(20))
    assert process.returncode == 1
    assert "✗ nothing was measured" in output.decode()
    assert json.loads(path.read_text())["was_interrupted"]


def test_an_interrupt_is_heard_while_slow_clients_settle(serve_process, start_load, tmp_path):
    server = serve_process("--relay")
    path = tmp_path / "result.json"
    with connect(server.url) as outsider:
        options = ("--clients", "2", "--warmup", "0", "--messages", "1", "--settle", "600", "--json", str(path))
        process = start_load(server.url, *options)
        outsider.recv(timeout=seconds(30))
    process.send_signal(signal.SIGINT)
    assert process.wait(seconds(20)) == 0
    assert json.loads(path.read_text())["deliveries"] == 2


def run_load(*arguments, status, **options):
    done = subprocess.run([*LOAD, *arguments], stderr=subprocess.PIPE, text=True, timeout=seconds(60), **options)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_server_that_answers_nobody_is_not_asked_by_each_client():
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        done = run_load(url, "--clients", "500", "--connect-timeout", "0.2", status=3)
        assert "no answer to the handshake" in done.stderr
        listener.setblocking(False)
        asked = 0
        with suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
                asked += 1
        assert asked == 64


@pytest.mark.parametrize("loop", [("--in-flight", "8"), ("--rate", "1000")])
def test_a_server_that_reads_no_more_does_not_hang_a_run(relay, tmp_path, loop):
    path = tmp_path / "result.json"
    options = ("--clients", "2", "--messages", "100", "--size", "1MB", "--warmup", "0", "--stall", "0.5")
    run_load(relay("deaf", 20), *options, *loop, "--json", str(path), status=1)
    assert json.loads(path.read_text())["stopped"]


def test_who_gets_no_answer_when_others_come_and_go_is_refused(relay, tmp_path):
    path = tmp_path / "result.json"
    options = ("--clients", "10", "--churn", "50", "--duration", "2", "--stall", "0.5", "--rate", "100")
    run_load(relay("silent", 11), *options, "--json", str(path), status=1)
    assert set(json.loads(path.read_text())["handshakes"]["problems"]) == {"no answer to the handshake"}


# Output.


@pytest.fixture
def quick(relay):
    return (relay("fragment", 64), "--clients", "2", "--messages", "5")


def test_the_file_is_written_though_nobody_reads_standard_output(quick, tmp_path):
    path = tmp_path / "result.json"
    ours, theirs = os.pipe()
    os.close(ours)
    with closing(os.fdopen(theirs)) as output:
        run_load(*quick, "--json", str(path), status=128 + signal.SIGPIPE, stdout=output)
    assert json.loads(path.read_text())["published"] == 5


def test_standard_output_may_be_closed(quick, tmp_path):
    path = tmp_path / "result.json"
    run_load(*quick, "--json", str(path), status=0, preexec_fn=lambda: os.close(1))
    assert json.loads(path.read_text())["published"] == 5


def test_a_full_disk_has_a_name(quick):
    done = run_load(*quick, "--json", "/dev/full", status=3, stdout=subprocess.PIPE)
    assert done.stderr == "fastbcast: /dev/full: No space left on device\n"
    assert "✓" in done.stdout


def test_a_full_standard_output_has_a_name_and_costs_no_file(quick, tmp_path):
    path = tmp_path / "result.json"
    with open("/dev/full", "w") as full:
        done = run_load(*quick, "--json", str(path), status=3, stdout=full)
    assert done.stderr == "fastbcast: standard output: No space left on device\n"
    assert json.loads(path.read_text())["published"] == 5


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_file_that_cannot_be_written_is_said_before_the_run(tmp_path, option):
    path = tmp_path / "nowhere" / "result"
    done = run_load("ws://127.0.0.1:1/", option, str(path), status=2)
    assert done.stderr == f"fastbcast: {path} cannot be written\n"


def test_a_terminal_that_has_no_signs_gets_others(quick):
    done = run_load(*quick, status=0, stdout=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.stdout.splitlines()[-1].startswith("? ")


# What is no number.


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["rate", "churn_per_second", "duration_seconds", "settle_seconds", "connect_rate"])
def test_numbers_are_finite(name, value):
    with pytest.raises(ValueError, match=f"{name} is a number, not {value}"):
        Plan(url="ws://x/", **{name: value})


def test_a_rate_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="--rate must be at most 1,000,000,000"):
        Plan(url="ws://x/", rate=1e300)


def test_a_processor_that_is_not_there_has_a_name(quick):
    assert "--cores: there is no processor 9999" in run_load(*quick, "--cores", "9999", status=3).stderr
