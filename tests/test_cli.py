"""The `fastbcast` command, as a process: what it prints, what it serves, and how it ends."""

import json
import signal
import socket
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest
from conftest import seconds
from raw_client import handshake
from reference import BINARY, CLOSE, TEXT, Frame, client_frame, parse_frames
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.sync.client import connect

import fastbcast

COMMAND = [sys.executable, "-m", "fastbcast"]


def fastbcast_command(*arguments, **options):
    """Run the command to its end: (exit status, standard output, standard error)."""
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=seconds(20), check=False, **options
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def start():
    """Start commands whose output is piped; whatever still runs is killed at the end of the test."""
    started = []

    def start_command(*arguments, **options):
        process = subprocess.Popen(
            [*COMMAND, *arguments], **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        )
        started.append(process)
        return process

    yield start_command
    for process in started:
        process.kill()
        process.communicate()


def poll_until(condition):
    """Try until `condition()` is true; each try is a round trip to another process."""
    deadline = time.monotonic() + seconds(20)
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"


def listeners(server, path=""):
    with urlopen(f"{server.http_url}{path}?listeners", timeout=seconds(20)) as response:
        return json.load(response)["listeners"]


def receive(client):
    return client.recv(timeout=seconds(20))


def assert_one_line(errors, *words):
    assert errors.count("\n") == 1, errors
    assert errors.endswith("\n")
    assert errors.startswith("fastbcast: ")
    for word in words:
        assert word in errors


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class SilentClient:
    """A client that takes the handshake and then does only what it is told, least of all answer a CLOSE."""

    def __init__(self, port, path="/", receive_buffer_bytes=None):
        self.sock = socket.socket()
        if receive_buffer_bytes is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.sock.settimeout(seconds(20))
        self.sock.connect(("127.0.0.1", port))
        self.sock.sendall(handshake(path))
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            self.data += self.sock.recv(65536)
        _, _, self.data = self.data.partition(b"\r\n\r\n")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.sock.close()

    def read_to_close(self):
        frames = []
        while not frames or frames[-1].opcode != CLOSE:
            got, self.data = parse_frames(self.data)
            frames += got
            if not got:
                data = self.sock.recv(65536)
                assert data, "the stream ended without a CLOSE"
                self.data += data
        return frames


# serve.


@pytest.mark.parametrize(("host", "printed"), [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost")])
def test_serve_prints_where_it_listens_and_nothing_else(start, host, printed):
    process = start("serve", "--host", host, "--port", "0")
    line = process.stdout.readline()
    port = int(line.rstrip("/\n").rpartition(":")[2])
    assert line == f"listening on ws://{printed}:{port}/\n"
    with connect(f"ws://{host}:{port}/"):
        pass
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=seconds(20)) == ("", "")
    assert process.returncode == 0


def test_serve_listens_on_the_port_it_is_told(start):
    port = free_port()
    process = start("serve", "--port", str(port))
    assert process.stdout.readline() == f"listening on ws://127.0.0.1:{port}/\n"
    with connect(f"ws://127.0.0.1:{port}/"):
        pass


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_relay_sends_a_message_to_all_of_its_path_the_sender_included(serve_process, loop):
    server = serve_process("--relay", "--loop", loop)
    with connect(server.url + "a") as sender, connect(server.url + "a") as other, connect(server.url + "b") as stranger:
        for message in ("text ü", b"\x00binary", "", b"", "x" * 100_000):
            sender.send(message)
            assert receive(sender) == message
            assert receive(other) == message
        stranger.send("of b")
        assert receive(stranger) == "of b"  # and nothing of a before it
        other.send("back")
        assert receive(sender) == "back"


def test_without_relay_a_client_that_sends_is_closed_with_1008_and_the_others_stay(serve_process):
    server = serve_process()
    with connect(server.url) as client, connect(server.url) as other:
        client.send("hello")
        with pytest.raises(ConnectionClosed) as caught:
            receive(client)
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1008, "publishing is not allowed")
        other.ping().wait(seconds(20))
        assert server.stop() == (0, "", "")
        with pytest.raises(ConnectionClosedOK):
            receive(other)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1001), (signal.SIGTERM, 1012)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_closes_the_clients_and_ends_with_0(serve_process, number, code, loop):
    server = serve_process("--relay", "--loop", loop)
    with connect(server.url) as one, connect(server.url + "a") as other:
        assert server.stop(number) == (0, "", "")
        for client in (one, other):
            with pytest.raises(ConnectionClosed) as caught:
                receive(client)
            assert caught.value.rcvd.code == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1001), (signal.SIGTERM, 1012)], ids=["SIGINT", "SIGTERM"])
def test_a_second_signal_ends_it_at_once_while_a_client_does_not_answer(serve_process, number, code):
    server = serve_process()
    with SilentClient(server.port) as client:
        server.process.send_signal(number)
        (close,) = client.read_to_close()
        assert close.payload[:2] == code.to_bytes(2, "big")
        assert server.process.poll() is None  # it waits for the answer

        def has_ended_by_another():     # of which the first may come so soon that it is taken for the same stop
            server.process.send_signal(number)
            return server.process.poll() is not None

        poll_until(has_ended_by_another)
        assert server.stop() == (128 + number, "", "")


def test_sigterm_lets_a_slow_reader_have_what_was_published_and_waits_no_longer(serve_process):
    server = serve_process("--relay", "--drain-seconds", "3600")
    messages = [b"%d" % number + bytes(100_000) for number in range(8)]
    with SilentClient(server.port, receive_buffer_bytes=4096) as slow, connect(server.url) as sender:
        for message in messages:
            sender.send(message)
            assert receive(sender) == message
        server.process.send_signal(signal.SIGTERM)
        frames = slow.read_to_close()
        assert [frame.payload for frame in frames[:-1]] == messages
        assert frames[-1].payload[:2] == (1012).to_bytes(2, "big")
        slow.sock.sendall(client_frame(CLOSE, (1012).to_bytes(2, "big")))
        assert server.process.communicate(timeout=seconds(20)) == (b"", b"")
        assert server.process.returncode == 0


def test_drain_seconds_bounds_how_long_sigterm_waits(serve_process):
    server = serve_process("--relay", "--drain-seconds", "0.05")
    with SilentClient(server.port, receive_buffer_bytes=4096), connect(server.url) as sender:
        for _ in range(8):
            sender.send(bytes(100_000))
            receive(sender)
        server.process.send_signal(signal.SIGTERM)

        def is_closing():
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", server.port)) != 0

        poll_until(is_closing)


def test_a_message_above_max_message_bytes_closes_its_sender_with_1009(serve_process):
    server = serve_process("--relay", "--max-message-bytes", "1000")
    with connect(server.url) as client:
        client.send(bytes(1000))
        assert receive(client) == bytes(1000)
        client.send(bytes(1001))
        with pytest.raises(ConnectionClosed) as caught:
            receive(client)
        assert caught.value.rcvd.code == 1009


def test_a_client_further_behind_than_max_lag_bytes_is_evicted_with_1013(serve_process):
    server = serve_process("--relay", "--max-lag-bytes", "1000")
    with SilentClient(server.port, receive_buffer_bytes=4096) as slow, connect(server.url) as sender:
        while listeners(server) == 2:
            sender.send(bytes(100_000))
            receive(sender)
        slow.sock.sendall(client_frame(CLOSE, (1013).to_bytes(2, "big")))
        assert slow.read_to_close()[-1].payload[:2] == (1013).to_bytes(2, "big")
        assert listeners(server) == 1


def test_the_page_is_on_unless_it_is_turned_off(serve_process):
    with urlopen(serve_process().http_url, timeout=seconds(20)) as response:
        assert b"<html" in response.read().lower()
    with pytest.raises(OSError, match="426") as caught:
        urlopen(serve_process("--no-page").http_url, timeout=seconds(20))
    caught.value.close()


def test_a_port_in_use_is_one_line_and_1():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, output, errors = fastbcast_command("serve", "--port", str(port))
    assert (status, output) == (1, "")
    assert_one_line(errors, f"127.0.0.1:{port}", "in use")


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "a..b", "x" * 64, ""], ids=["not of this machine", "no host name", "label too long", "empty"]
)
def test_a_host_that_cannot_be_listened_on_is_one_line_and_1(host):
    status, output, errors = fastbcast_command("serve", "--host", host, "--port", "0")
    assert (status, output) == (1, "")
    assert_one_line(errors, "cannot listen on", host)


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--port", "65536"),
        ("serve", "--port", "x"),
        ("serve", "--max-message-bytes", "0"),
        ("serve", "--drain-seconds", "-1"),
        ("serve", "--loop", "trio"),
        ("serve", "--no-such-option"),
        ("serve", "argument"),
        ("publish",),
        ("listen",),
        ("no-such-command",),
    ],
)
def test_a_bad_option_is_said_without_a_traceback(arguments):
    status, output, errors = fastbcast_command(*arguments)
    assert status == 2
    assert output == ""
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("option", ["--max-message-bytes", "--max-lag-bytes"])
def test_a_number_that_is_far_too_big_is_said_without_a_traceback(option):
    status, output, errors = fastbcast_command("serve", "--port", "0", option, str(2**70))
    assert status in (1, 2)
    assert output == ""
    assert "Traceback" not in errors


def test_drain_seconds_must_be_a_number():
    status, _, errors = fastbcast_command("serve", "--port", "0", "--drain-seconds", "x")
    assert status == 2
    assert "--drain-seconds" in errors


# publish.


def test_publish_sends_its_argument_as_text(serve_process):
    server = serve_process("--relay")
    with connect(server.url + "a") as client:
        assert fastbcast_command("publish", server.url + "a", "hello ü") == (0, "", "")
        assert receive(client) == "hello ü"
        assert fastbcast_command("publish", server.url + "a", "two\nlines\n") == (0, "", "")
        assert receive(client).rstrip("\n") == "two\nlines"


def test_publish_sends_each_line_of_standard_input(serve_process):
    server = serve_process("--relay")
    with connect(server.url) as client:
        assert fastbcast_command("publish", server.url, input="one\n\n  three ü\nno newline") == (0, "", "")
        assert [receive(client) for _ in range(4)] == ["one", "", "  three ü", "no newline"]
        assert fastbcast_command("publish", server.url, input="") == (0, "", "")
        many = [f"line {number}" for number in range(3000)]
        assert fastbcast_command("publish", server.url, input="\n".join(many)) == (0, "", "")
        assert [receive(client) for _ in range(3000)] == many


def test_publish_sends_a_line_as_soon_as_it_comes(serve_process, start):
    server = serve_process("--relay")
    with connect(server.url) as client:
        process = start("publish", server.url, stdin=subprocess.PIPE)
        for line in ("one", "two"):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            assert receive(client) == line
        assert process.communicate(timeout=seconds(20)) == ("", "")
        assert process.returncode == 0


@pytest.mark.parametrize("arguments", [("publish", "{url}", "hello"), ("listen", "{url}")], ids=["publish", "listen"])
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ws://127.0.0.1:{dead_port}/", ("cannot connect",)),
        ("http://127.0.0.1:1/", ("not a WebSocket URL",)),
        ("no url", ("not a WebSocket URL",)),
        ("", ()),
        ("ws://", ()),
        ("ws://127.0.0.1:99999/", ()),
        ("ws://a..b/", ()),
    ],
)
def test_a_url_that_nobody_answers_is_one_line_and_1(arguments, url, words):
    url = url.format(dead_port=free_port())
    status, output, errors = fastbcast_command(*(argument.format(url=url) for argument in arguments))
    assert "Traceback" not in errors
    assert (status, output) == (1, "")
    assert_one_line(errors, url, *words)


@pytest.mark.parametrize("command", [("publish",), ("listen",)])
def test_a_server_that_refuses_is_one_line_and_1(command, serve_process):
    server = serve_process()
    url = server.url + "x" * 300  # too long for a channel's name
    status, output, errors = fastbcast_command(*command, url, *(["hello"] if command == ("publish",) else []))
    assert (status, output) == (1, "")
    assert_one_line(errors, "handshake refused", "400")


@pytest.mark.parametrize("arguments", [("publish", "{url}", "hello"), ("listen", "{url}")], ids=["publish", "listen"])
def test_a_certificate_that_is_not_trusted_is_one_line_and_1(arguments, serve_process, authority, tmp_path):
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    server = serve_process("--relay", "--cert", str(tmp_path / "cert"), "--key", str(tmp_path / "key"))
    status, output, errors = fastbcast_command(*(argument.format(url=server.url) for argument in arguments))
    assert (status, output) == (1, "")
    assert_one_line(errors, server.url, "cannot connect", "CERTIFICATE_VERIFY_FAILED")


def test_publish_says_when_the_server_closed_on_its_message(serve_process):
    server = serve_process("--relay", "--max-message-bytes", "1000")
    status, output, errors = fastbcast_command("publish", server.url, "x" * 1001)
    assert (status, output) == (1, "")
    assert_one_line(errors, "connection closed", "1009")


def test_publish_to_a_server_without_relay_says_that_it_is_not_allowed(serve_process):
    status, output, errors = fastbcast_command("publish", serve_process().url, "hello")
    assert (status, output) == (1, "")
    assert_one_line(errors, "connection closed", "1008", "publishing is not allowed")


def test_an_interrupted_publish_ends_at_once_though_standard_input_is_open(serve_process, start):
    server = serve_process("--relay")
    with connect(server.url) as client:
        process = start("publish", server.url, stdin=subprocess.PIPE)
        process.stdin.write("one\n")
        process.stdin.flush()
        assert receive(client) == "one"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=seconds(10)) == 128 + signal.SIGINT
        assert process.stderr.read() == ""


def test_publish_ends_when_the_server_goes_though_standard_input_is_open(serve_process, start):
    server = serve_process("--relay")
    process = start("publish", server.url, stdin=subprocess.PIPE)
    poll_until(lambda: listeners(server) == 1)
    assert server.stop()[0] == 0
    assert process.wait(timeout=seconds(10)) == 1
    assert_one_line(process.stderr.read(), "connection closed", "1001")


# listen.


@pytest.fixture
def listening(serve_process, start):
    """A relay, and a `fastbcast listen` that is subscribed to its channel "a"."""
    server = serve_process("--relay")
    process = start("listen", server.url + "a")
    poll_until(lambda: listeners(server, "a") == 1)
    return server, process


def test_listen_prints_a_line_for_each_message_and_ends_with_0_when_the_server_goes_away(listening):
    server, process = listening
    with connect(server.url + "a") as client:
        for message in ("one", "", "ü €", b"bytes"):
            client.send(message)
    for line in ("one\n", "\n", "ü €\n", "bytes\n"):
        assert process.stdout.readline() == line
    assert server.stop() == (0, "", "")
    assert process.communicate(timeout=seconds(20)) == ("", "")
    assert process.returncode == 0


def test_listen_ends_with_1_when_the_server_dies(listening):
    server, process = listening
    server.process.kill()
    output, errors = process.communicate(timeout=seconds(20))
    assert (process.returncode, output) == (1, "")
    assert_one_line(errors, "connection closed")


def test_an_interrupted_listen_ends_without_a_traceback(listening):
    _, process = listening
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=seconds(20)) == ("", "")
    assert process.returncode == 128 + signal.SIGINT


def test_listen_ends_cleanly_when_its_pipe_does(serve_process):
    server = serve_process("--relay")
    pipeline = subprocess.Popen(
        ["bash", "-c", '"$0" -m fastbcast listen "$1" | head -n 1; echo "$PIPESTATUS"', sys.executable, server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        poll_until(lambda: listeners(server) == 1)
        with connect(server.url) as client:
            client.send("one")
            assert pipeline.stdout.readline() == "one\n"

            def is_over():
                client.send("more")  # it notices when it writes
                receive(client)
                return pipeline.poll() is not None

            poll_until(is_over)
        assert pipeline.communicate(timeout=seconds(20)) == (f"{128 + signal.SIGPIPE}\n", "")
    finally:
        pipeline.kill()
        pipeline.communicate()


# demo, and the rest.


def test_demo_serves_the_page_and_a_feed_and_relays(start_process):
    server = start_process([*COMMAND, "demo", "--port", "0"])
    assert f"http://127.0.0.1:{server.port}/" in server.process.stdout.readline().decode()
    with urlopen(server.http_url, timeout=seconds(20)) as response:
        assert b"<html" in response.read().lower()
    with connect(server.url) as client:
        assert receive(client).startswith("BTC ")
        client.send("hello")
        while (message := receive(client)) != "hello":
            assert message.startswith("BTC ")
        assert server.stop() == (0, "", "")


@pytest.mark.parametrize("option", ["--version", "--help", "-h"])
def test_the_module_is_the_command(option):
    status, output, errors = fastbcast_command(option)
    assert (status, errors) == (0, "")
    assert output.startswith("Usage: fastbcast " if option != "--version" else "fastbcast, version")
    if option == "--version":
        assert fastbcast.__version__ in output


@pytest.mark.parametrize("command", ["serve", "demo", "publish", "listen"])
def test_each_command_has_help(command):
    status, output, errors = fastbcast_command(command, "--help")
    assert (status, errors) == (0, "")
    assert output.startswith(f"Usage: fastbcast {command} ")


def test_binary_and_text_keep_their_kind_on_the_wire(serve_process):
    server = serve_process("--relay")
    with SilentClient(server.port) as raw, connect(server.url) as client:
        client.send("text")
        client.send(b"binary")
        assert [receive(client), receive(client)] == ["text", b"binary"]
        server.process.send_signal(signal.SIGINT)
        frames = raw.read_to_close()
        raw.sock.sendall(client_frame(CLOSE, (1001).to_bytes(2, "big")))
    assert frames[:2] == [Frame(TEXT, b"text"), Frame(BINARY, b"binary")]
