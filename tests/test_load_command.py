"""The command `fastbcast load`, against the real server."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import seconds

from fastbcast.command.load import parse_plan
from fastbcast.load.connector import Connector
from fastbcast.load.plan import Plan, parse_bytes, parse_slow, parse_sources
from fastbcast.load.require import BadRequirement, parse_requirement

LOAD = [sys.executable, "-m", "fastbcast", "load"]
RELAY = Path(__file__).parent / "faulty_relay.py"


def run_load(*arguments, status=0):
    done = subprocess.run([*LOAD, *arguments], capture_output=True, text=True, timeout=seconds(60))
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture
def load_json(serve_process, tmp_path):
    """Load `fastbcast serve --relay` and give the figures."""
    server = serve_process("--relay")

    def load(*arguments, status=0, path=""):
        file = tmp_path / "result.json"
        run_load(
            server.url + path, "--server-pid", str(server.process.pid), "--json", str(file), *arguments, status=status
        )
        return json.loads(file.read_text())

    return load


def test_the_figures_of_a_closed_loop(load_json):
    result = load_json("--clients", "50", "--messages", "100", "--in-flight", "8")
    assert result["published"] == 100
    assert result["deliveries"] == result["delivery_ms"]["count"] == 5000
    assert result["completion_ms"]["count"] == result["spread_ms"]["count"] == 100
    assert result["handshakes"]["opened"] == result["handshake_ms"]["count"] == 51
    times = result["delivery_ms"]
    assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["p99.9"] <= times["max"]
    assert times["max"] <= result["completion_ms"]["max"]
    assert result["deliveries_per_second"] == pytest.approx(5000 / result["seconds"])
    assert result["wire_bytes_per_message"] == 128 + 4
    assert result["server"]["rss_peak_bytes"] > 0
    assert result["server"]["cpu_us_per_delivery"] is not None
    assert result["client"]["cpu_share"] > 0
    assert result["kernel"]["socket_bytes_peak"] is not None
    assert result["timeline"][-1]["phase"] == 4
    assert result["distribution"]["delivery"][-1][0] == 100


def test_an_open_loop_publishes_at_its_rate(load_json):
    result = load_json("--clients", "10", "--rate", "200", "--messages", "40", "--warmup", "0")
    assert result["published"] == 40
    assert result["seconds"] > 39 / 200     # the last one is not due sooner


def test_several_processes_account_for_every_message_together(load_json):
    result = load_json("--clients", "40", "--processes", "3", "--messages", "200", "--in-flight", "4")
    assert result["deliveries"] == 40 * 200
    assert result["completion_ms"]["count"] == 200
    assert result["client"]["processes"] == 3


def test_channels_are_urls_of_their_own(load_json):
    result = load_json("--clients", "12", "--channels", "3", "--publishers", "6", "--messages", "60",
                       "--warmup", "6", path="room-{channel}?x=1")
    # Each message goes to a third of the clients.
    assert result["deliveries"] == 60 * 4
    assert result["handshakes"]["opened"] == 12 + 6


def test_guests_come_and_go_and_nobody_else_notices(load_json):
    result = load_json("--clients", "30", "--churn", "60", "--duration", "1", "--in-flight", "2")
    assert result["handshakes"]["churned"] >= 30
    assert result["handshakes"]["opened"] == 31 + result["handshakes"]["churned"]
    came = result["churn_handshake_ms"]     # those of the warm-up are not in it
    assert 0 < came["count"] <= result["handshakes"]["churned"]
    assert 0 < came["p50"] <= came["max"] <= result["handshake_ms"]["max"]
    assert result["lost"] == result["missing"] == 0


def test_idle_clients_may_be_told_nothing(load_json):
    result = load_json("--clients", "40", "--idle", "--duration", "0.1")
    assert (result["deliveries"], result["handshakes"]["opened"]) == (0, 40)
    assert result["server"]["rss_start_bytes"] < result["server"]["rss_after_bytes"]


def test_who_expects_messages_must_be_told_some(load_json):
    assert load_json("--clients", "2", "--expect-prefix", "a", "--duration", "0.1", status=1)["deliveries"] == 0


def test_the_peak_of_memory_is_exact(start_process, tmp_path):
    program = tmp_path / "server.py"
    program.write_text(
        "import asyncio, fastbcast, mmap\n"
        "hub = fastbcast.Hub()\n"
        "@hub.on_message\n"
        "def _(client, message):\n"
        "    with mmap.mmap(-1, 64 * 2**20) as memory:\n"       # shorter than a look; no allocator keeps it
        "        memory[::4096] = bytes(2**14)\n"
        "    hub.publish(client.channel, message)\n"
        "async def main():\n"
        "    async with fastbcast.serve(hub, port=0) as server:\n"
        "        print(f'listening on ws://127.0.0.1:{server.port}/', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    server = start_process([sys.executable, str(program)])
    path = tmp_path / "result.json"
    run_load(server.url, "--clients", "2", "--warmup", "0", "--messages", "1", "--json", str(path),
             "--server-pid", str(server.process.pid))
    memory = json.loads(path.read_text())["server"]
    assert memory["rss_after_bytes"] - memory["rss_before_bytes"] < 32 * 2**20
    assert memory["rss_peak_bytes"] - memory["rss_before_bytes"] > 60 * 2**20


def test_a_plan_is_what_the_command_would_run():
    slow = parse_slow("10%:stall")
    arguments = ["ws://x/", "--clients", "50", "--slow", "10%:stall", "--cores", "1,2", "--require", "p99<1s"]
    assert parse_plan([*arguments, "--quiet"]) == Plan(url="ws://x/", clients=50, slow=(slow,), cores=(1, 2))
    assert parse_plan(["ws://x/", "--listen"]) == Plan(url="ws://x/", expect_prefix=b"")
    with pytest.raises(ValueError, match="--size must be 40"):
        parse_plan(["ws://x/", "--size", "8"])


def test_slow_clients_are_counted_apart(load_json):
    result = load_json("--clients", "20", "--slow", "10%:stall", "--slow", "3:4KB/s", "--slow", "1:bursts",
                       "--messages", "50", "--size", "1KiB")
    assert result["slow_clients"]["count"] == result["slow_clients"]["open"] == 6
    assert result["settings"]["steady_clients"] == 14
    assert result["deliveries"] == 14 * 50
    assert result["missing"] == 0


def test_evicted_slow_clients_are_found_at_the_servers_end(load_json):
    result = load_json("--clients", "10", "--slow", "2:stall", "--size", "64KiB", "--messages", "600",
                       "--in-flight", "16", "--binary", "--settle", "6")
    assert result["missing"] == result["lost"] == 0     # the CLOSE waits behind what was not read
    assert result["slow_clients"]["open"] == 0
    assert result["slow_clients"]["lingering"] + result["slow_clients"]["gone"] == 2


def test_deflate_is_offered_and_inflated(start_process, tmp_path):
    server = start_process([sys.executable, str(RELAY), "double", "100000000"])    # a relay that compresses
    path = tmp_path / "result.json"
    run_load(server.url, "--clients", "5", "--messages", "20", "--size", "2000", "--deflate", "--json", str(path))
    result = json.loads(path.read_text())
    assert result["messages_compressed"] == 5 * (20 + 20)
    assert result["wire_bytes_per_message"] < 1000
    assert result["wire_share_of_plain"] == pytest.approx(result["wire_bytes_per_message"] / 2004)
    assert result["deliveries"] == 100


@pytest.mark.parametrize("compression", ["deflate", "window"])
def test_every_message_of_fastbcasts_own_forms_is_inflated_and_right(serve_process, tmp_path, compression):
    """In several processes, while clients come and go, some do not read, and a window begins anew for who came."""
    server = serve_process("--relay", "--compression", compression)
    path = tmp_path / "result.json"
    run_load(server.url, "--clients", "60", "--processes", "2", "--deflate", "--churn", "20", "--slow", "2:stall",
             "--in-flight", "16", "--duration", "2", "--json", str(path))
    result = json.loads(path.read_text())
    assert result["handshakes"]["churned"] > 20
    assert result["messages_compressed"] == result["messages_received"] > 1000
    assert result["wire_share_of_plain"] < (0.45 if compression == "window" else 0.98)


def test_a_server_that_does_not_compress_is_a_problem_for_a_run_that_measures_it(load_json):
    result = load_json("--clients", "3", "--deflate", "--messages", "5", status=1)
    assert result["wire_share_of_plain"] == 1.0
    assert result["problems"][0].startswith("--deflate was not measured: no message came compressed")


def test_letters_that_are_compressed_are_noted(serve_process, tmp_path):
    path = tmp_path / "result.json"
    server = serve_process("--relay", "--compression", "window")
    run_load(server.url, "--clients", "3", "--deflate", "--payload", "letters", "--messages", "5", "--json", str(path))
    assert any("--payload letters" in note for note in json.loads(path.read_text())["notes"])


def test_interrupted_it_reports_what_there_is(serve_process, tmp_path):
    server = serve_process("--relay")
    path = tmp_path / "result.json"
    process = subprocess.Popen(
        [*LOAD, server.url, "--clients", "5", "--rate", "50", "--duration", "600", "--json", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    try:
        wait_until_subscribed(server)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=seconds(30))
    finally:
        process.kill()
    assert errors == ""
    result = json.loads(path.read_text())
    assert result["was_interrupted"]
    assert "interrupted" in output or result["deliveries"] == 0


def wait_until_subscribed(server):
    """Until the load's connections are there: a message to their channel is seen by somebody else."""
    from websockets.sync.client import connect

    with connect(server.url) as connection:
        connection.recv(timeout=seconds(30))


def test_in_a_pipe_nothing_but_the_result_is_printed(serve_process):
    done = run_load(serve_process("--relay").url, "--clients", "2", "--messages", "5")
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "✓" in done.stdout


def test_on_a_terminal_there_is_a_progress_display(serve_process):
    server = serve_process("--relay")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*LOAD, server.url, "--clients", "20", "--duration", "1"], stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:     # the other end is closed
        pass
    os.close(ours)
    assert process.wait(seconds(30)) == 0
    for text in (b"publishing", b"20 clients", b"deliveries/s", b"p99"):
        assert text in seen


@pytest.mark.parametrize(
    ("requirement", "status"), [("missing=0", 0), ("p99<1h", 2), ("p99<1us", 1), ("deliveries_per_second>1", 0)]
)
def test_a_requirement_that_is_not_met_is_the_exit_status(serve_process, requirement, status):
    arguments = (serve_process("--relay").url, "--clients", "2", "--messages", "5", "--require", requirement)
    done = run_load(*arguments, status=status)
    assert ("✗ not met: p99<1us: it is" in done.stdout) == (status == 1)


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (["http://127.0.0.1/"], 2, "not a WebSocket URL"),
        (["ws://"], 2, "not a WebSocket URL"),
        (["ws://127.0.0.1:0/"], 2, "not a WebSocket URL"),
        (["ws://127.0.0.1:99999/"], 2, "Port out of range"),
        (["wss://127.0.0.1/"], 2, "no TLS"),
        (["ws://127.0.0.1:1/"], 3, "Connection refused"),
        (["ws://no-such-host.invalid/"], 3, "no-such-host.invalid"),
        (["ws://127.0.0.1:1/", "--size", "8"], 2, "--size must be 40"),
        (["ws://127.0.0.1:1/", "--size", "8 elephants"], 2, "is not a number of bytes"),
        (["ws://127.0.0.1:1/", "--slow", "10%:sometimes"], 2, "is not like 10%:stall"),
        (["ws://127.0.0.1:1/", "--slow", "100:stall"], 2, "needs a client that reads"),
        (["ws://127.0.0.1:1/", "--channels", "3", "--publishers", "2"], 2, "--publishers must be at least --channels"),
        (["ws://127.0.0.1:1/", "--source-addresses", "nowhere"], 2, "is not like 127.0.0.2"),
        (["ws://127.0.0.1:1/", "--source-addresses", "203.0.113.7"], 3, "source address 203.0.113.7"),
        (["ws://127.0.0.1:1/", "--require", "speed>3"], 2, "is not a figure"),
        (["ws://127.0.0.1:1/", "--require", "p99<5M"], 2, "'M' is not a unit of p99 (us, ms, s)"),
        (["ws://127.0.0.1:1/", "--clients", "1", "--churn", "5"], 2, "--churn needs two clients that are not slow"),
        (["ws://127.0.0.1:1/", "--idle", "--expect-prefix", "a"], 2, "--idle expects no message"),
        (["ws://127.0.0.1:1/", "--header", "no colon"], 2, "is not like"),
        (["ws://127.0.0.1:1/", "--cores", "a"], 2, "is not like 1 or 1,2"),
        (["ws://127.0.0.1:1/", "--clients", "1000000"], 3, "open files"),
    ],
)
def test_what_cannot_be_run_is_one_line(arguments, status, problem):
    done = run_load(*arguments, status=status)
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_refuses_says_so(serve_process):
    server = serve_process("--relay", "--max-channels", "1")
    done = run_load(server.url + "a-{channel}", "--clients", "4", "--channels", "2", status=3)
    assert "503" in done.stderr


def test_of_several_addresses_the_one_that_answers_is_taken(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = [(socket.AF_INET, 1, 6, "", address) for address in (nobody, listener.getsockname())]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: found)
        assert Connector(Plan(url="ws://localhost/")).address == listener.getsockname()


def test_headers_reach_the_server(start_process, tmp_path):
    program = tmp_path / "server.py"
    program.write_text(
        "import asyncio, fastbcast\n"
        "hub = fastbcast.Hub()\n"
        "@hub.authorize\n"
        "def _(request):\n"
        "    if request.headers.get('authorization') != 'Bearer abc':\n"
        "        raise fastbcast.Reject(401)\n"
        "hub.on_message(lambda client, message: hub.publish(client.channel, message))\n"
        "async def main():\n"
        "    async with fastbcast.serve(hub, port=0) as server:\n"
        "        print(f'listening on ws://127.0.0.1:{server.port}/', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    server = start_process([sys.executable, str(program)])
    assert "HTTP/1.1 401" in run_load(server.url, "--clients", "1", status=3).stderr
    run_load(server.url, "--clients", "2", "--messages", "3", "--header", "Authorization: Bearer abc")


@pytest.mark.parametrize(
    ("text", "value"), [("128", 128), ("4KiB", 4096), ("1KB", 1000), ("2.5 MB", 2_500_000), ("64kib", 65536)]
)
def test_bytes_are_understood(text, value):
    assert parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "clients", "count", "read_bytes"),
    [("10%:stall", 1000, 100, 0), ("3:bursts", 1000, 3, 0), ("1%:1KB/s", 50, 1, 50), ("1:1/s", 5, 1, 1)],
)
def test_slow_clients_are_understood(text, clients, count, read_bytes):
    slow = parse_slow(text)
    assert (slow.count(clients), slow.read_bytes) == (count, read_bytes)


def test_source_addresses_are_understood():
    assert parse_sources("127.0.0.1-3, 127.0.1.9") == ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.1.9")


def test_every_client_of_a_plan_has_a_kind_and_each_channel_a_steady_one():
    plan = Plan(url="ws://x/", clients=100, channels=7, slow=(parse_slow("20%:stall"),), churn_per_second=10)
    clients = plan.all_clients()
    assert len(clients) == 100
    assert sum(client.slow is not None for client in clients) == 20
    assert sum(client.is_guest for client in clients) == plan.guests == 20
    assert {client.channel for client in clients if not client.slow and not client.is_guest} == set(range(7))
    assert clients == plan.all_clients()


@pytest.mark.parametrize(
    ("url", "channels", "path"),
    [("ws://x", 1, "/"), ("ws://x/a?b=c", 1, "/a?b=c"), ("ws://x/", 2, "/1"), ("ws://x/a", 2, "/a-1"),
     ("ws://x/{channel}/z", 2, "/1/z")],
)
def test_a_channel_has_its_path(url, channels, path):
    assert Plan(url=url, channels=channels).path_of(1) == path


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [("p99<50ms", 49.9, True), ("p99<50ms", 50.0, False), ("p99.9<=0.05s", 50.0, True), ("max>100us", 0.2, True)],
)
def test_requirements_have_units(text, value, holds):
    result = {"delivery_ms": {"p99": value, "p99.9": value, "max": value}}
    assert parse_requirement(text).check(result)["is_met"] == holds


@pytest.mark.parametrize(
    ("text", "result", "found"),
    [
        ("p50<1s", {"delivery_ms": {"p50": 0.25}}, "it is 250 µs"),
        ("server_cpu_share<90%", {"server": {"cpu_share": 0.5}}, "it is 50 %"),
        ("server_rss_peak_bytes<1M", {"server": {"rss_peak_bytes": 2e6}}, "it is 2 MB"),
        ("deliveries_per_second>1k", {"deliveries_per_second": 1234.0}, "it is 1,234 /s"),
        ("server_cpu_us_per_delivery<2us", {"server": {"cpu_us_per_delivery": 1.5}}, "it is 1.5 µs"),
        ("missing=0", {"missing": 3}, "it is 3"),
    ],
)
def test_what_a_requirement_has_found_is_written_with_its_unit(text, result, found):
    assert parse_requirement(text).check(result)["found"] == found


def test_a_figure_that_was_not_measured_meets_no_requirement():
    judged = parse_requirement("server_cpu_share<1").check({"server": None})
    assert not judged["is_met"]
    assert judged["found"] == "it could not be measured (see --server-pid)"
    assert not parse_requirement("corrupt=0").check({"corrupt": None})["is_met"]


@pytest.mark.parametrize("text", [
    "", "p99", "p99<", "p99<abc", "p99<1.2.3ms", "missing==0", "p99<1h", "p99<5M", "missing<1ms", "server_cpu_share<1s",
])
def test_a_requirement_that_is_not_one_is_refused(text):
    with pytest.raises(BadRequirement):
        parse_requirement(text)
