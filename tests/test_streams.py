"""The command's standard streams: closed, non-blocking, full, or a pipe that nobody reads any more."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from conftest import seconds
from test_cli import COMMAND, assert_one_line, listeners, poll_until, receive
from websockets.sync.client import connect, unix_connect

STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}
EVERY_STREAM = [*([number] for number in STREAMS.values()), [0, 1, 2]]
SIGPIPE_STATUS = 128 + signal.SIGPIPE
SCRIPT = Path(sys.executable).with_name("fastbcast")
ENTRIES = {"module": COMMAND} | ({"script": [str(SCRIPT)]} if SCRIPT.exists() else {})
BUFFERED = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])


def without(*numbers):
    """A preexec_fn: the process starts with these descriptors closed."""

    def close():
        for number in numbers:
            os.close(number)

    return close


@pytest.fixture
def resources():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(resources):
    def start_command(*arguments, command=COMMAND, **options):
        process = resources.enter_context(subprocess.Popen([*command, *arguments], **options))
        resources.callback(process.kill)
        return process

    return start_command


@pytest.fixture
def spoilt(resources):
    """Options of a process one of whose streams is `closed`, `full` or a pipe whose reader is `gone`."""

    def make(name, state):
        if state == "closed":
            return {"preexec_fn": without(STREAMS[name])}
        if state == "full":
            return {name: resources.enter_context(open("/dev/full", "w"))}
        theirs, ours = os.pipe()
        os.close(theirs)
        return {name: resources.enter_context(closing(os.fdopen(ours, "w")))}

    return make


def run(*arguments, **options):
    """(exit status, standard output, standard error), empty where a stream is none of ours."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
    done = subprocess.run([*COMMAND, *arguments], text=True, timeout=seconds(60), check=False, **options)
    return done.returncode, done.stdout or "", done.stderr or ""


def wait_for_server(path):
    def is_there():
        try:
            with unix_connect(path):
                return True
        except OSError:
            return False

    poll_until(is_there)


# A server.


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("missing", EVERY_STREAM, ids=str)
def test_a_server_whose_streams_are_closed_serves_and_ends_in_order(start, tmp_path, missing, entry, loop):
    path = str(tmp_path / "socket")
    process = start("serve", "--uds", path, "--relay", "--loop", loop, command=ENTRIES[entry],
                    preexec_fn=without(*missing), stderr=None if 2 in missing else subprocess.PIPE)
    wait_for_server(path)
    with unix_connect(path) as client:
        client.send("hello")
        assert receive(client) == "hello"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=seconds(20))
    assert process.returncode == 0
    assert not errors


@pytest.mark.parametrize("command", ["serve", "demo"])
@pytest.mark.parametrize(("state", "reason"), [("full", "No space left on device"), ("gone", "")])
def test_a_server_that_cannot_print_where_it_listens_says_so_and_serves(
    start, spoilt, tmp_path, command, state, reason
):
    path = str(tmp_path / "socket")
    process = start(command, "--uds", path, stderr=subprocess.PIPE, text=True, **spoilt("stdout", state))
    wait_for_server(path)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=seconds(20))
    assert process.returncode == 0
    assert errors == (f"fastbcast: standard output: {reason}\n" if reason else "")


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("state", ["closed", "full", "gone"])
def test_a_log_that_cannot_be_written_does_not_end_the_server(start, spoilt, tmp_path, state, log_format):
    path, tokens = str(tmp_path / "socket"), tmp_path / "tokens"
    tokens.write_text("x" * 32 + "\n")
    tokens.chmod(0o644)     # which is logged
    process = start("serve", "--uds", path, "--publish-token-file", str(tokens), "--log-format", log_format,
                    stdout=subprocess.DEVNULL, **spoilt("stderr", state))
    wait_for_server(path)
    process.send_signal(signal.SIGINT)
    assert process.wait(seconds(20)) == 0


# Clients.


@pytest.mark.parametrize("missing", EVERY_STREAM, ids=str)
def test_publish_of_an_argument_needs_no_stream(serve_process, missing):
    server = serve_process("--relay")
    with connect(server.url) as client:
        streams = dict.fromkeys(STREAMS)
        assert run("publish", server.url, "hello", preexec_fn=without(*missing), **streams)[0] == 0
        assert receive(client) == "hello"


@pytest.mark.parametrize("how", ["closed", "write only"])
def test_publish_without_standard_input_says_so(serve_process, resources, how):
    server = serve_process("--relay")
    no_input = os.open(os.devnull, os.O_WRONLY)
    resources.callback(os.close, no_input)
    options = {"preexec_fn": without(0)} if how == "closed" else {"stdin": no_input}
    status, output, errors = run("publish", server.url, **options)
    assert (status, output, errors) == (1, "", "fastbcast: standard input: Bad file descriptor\n")


def test_publish_waits_for_a_non_blocking_standard_input(serve_process, start):
    server = serve_process("--relay")
    theirs, ours = os.pipe()
    os.set_blocking(theirs, False)
    process = start("publish", server.url, stdin=theirs)
    os.close(theirs)
    with connect(server.url) as client, open(ours, "w") as pipe:
        poll_until(lambda: listeners(server) == 2)      # it has nothing to read yet
        for line in ("one", "two ü", "x" * 100_000):
            pipe.write(line + "\n")
            pipe.flush()
            assert receive(client) == line
        pipe.write("no newline")
        pipe.close()
        assert receive(client) == "no newline"
    assert process.wait(seconds(20)) == 0


@BUFFERED
def test_listen_loses_nothing_into_a_non_blocking_pipe(serve_process, start, unbuffered):
    server = serve_process("--relay", "--max-lag-bytes", str(64 * 1024 * 1024))
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    process = start("listen", server.url, stdout=theirs, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    os.close(theirs)
    poll_until(lambda: listeners(server) == 1)
    messages = [f"{number} {'x' * 20_000}" for number in range(200)]
    with connect(server.url) as client:
        for message in messages:
            client.send(message)
            receive(client)
    with open(ours) as pipe:    # which has been full for long
        for message in messages:
            assert pipe.readline() == message + "\n"
        process.send_signal(signal.SIGINT)
        assert pipe.read() == ""
    assert process.wait(seconds(20)) == 128 + signal.SIGINT


@BUFFERED
@pytest.mark.parametrize(
    ("state", "ending"),
    [("full", (1, "fastbcast: standard output: No space left on device\n")), ("gone", (SIGPIPE_STATUS, ""))],
)
def test_listen_ends_when_a_message_cannot_be_printed(serve_process, start, spoilt, state, ending, unbuffered):
    server = serve_process("--relay")
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = start("listen", server.url, stderr=subprocess.PIPE, text=True, env=environment, **spoilt("stdout", state))
    poll_until(lambda: listeners(server) == 1)
    with connect(server.url) as client:
        client.send("hello")
        _, errors = process.communicate(timeout=seconds(20))
    assert (process.returncode, errors) == ending


def test_listen_into_a_closed_standard_output_ends_before_it_connects():
    ending = run("listen", "ws://127.0.0.1:1/", stdout=None, preexec_fn=without(1))
    assert ending == (1, "", "fastbcast: standard output: Bad file descriptor\n")


@pytest.mark.parametrize("arguments", [("publish", "x", "y"), ("listen", "x"), ("load", "x"), ("serve", "--fd", "x")])
@pytest.mark.parametrize("state", ["closed", "full", "gone"])
def test_an_error_that_cannot_be_told_is_still_the_exit_status(spoilt, arguments, state):
    status, output, _ = run(*arguments, **{"stderr": None} | spoilt("stderr", state))
    assert status in (1, 2)
    assert output == ""


# What is printed at once.


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("serve", "--help"), ("load", "--help")])
@pytest.mark.parametrize(
    ("state", "ending"),
    [
        ("closed", (1, "", "fastbcast: standard output: Bad file descriptor\n")),
        ("full", (1, "", "fastbcast: standard output: No space left on device\n")),
        ("gone", (SIGPIPE_STATUS, "", "")),
    ],
)
def test_a_text_that_cannot_be_printed_is_no_success(spoilt, arguments, state, ending):
    assert run(*arguments, **{"stdout": None} | spoilt("stdout", state)) == ending


def test_a_text_is_whole_in_a_non_blocking_pipe_that_is_full(start):
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    filling = 0
    try:
        while True:
            filling += os.write(theirs, b"." * 4096)
    except BlockingIOError:
        pass
    process = start("serve", "--help", stdout=theirs)
    os.close(theirs)
    with open(ours) as pipe:
        text = pipe.read()
    assert process.wait(seconds(20)) == 0
    assert text[filling:] == run("serve", "--help")[1]


@pytest.mark.parametrize("command", [[], ["serve"], ["demo"], ["publish"], ["listen"], ["load"], ["bench"]])
def test_help_is_the_same_where_python_strips_docstrings(command):
    stripped = subprocess.run(
        [sys.executable, "-OO", "-m", "fastbcast", *command, "--help"], capture_output=True, text=True,
        timeout=seconds(60), check=True,
    )
    assert stripped.stdout == run(*command, "--help")[1]


# Results.


@pytest.mark.parametrize("arguments", [("load", "ws://127.0.0.1:1/"), ("bench", "--quick")])
def test_a_result_that_could_go_nowhere_is_not_measured(arguments):
    ending = run(*arguments, stdout=None, preexec_fn=without(1))
    assert ending == (2, "", "fastbcast: standard output: Bad file descriptor\n")


def test_a_file_that_cannot_be_written_costs_neither_the_other_nor_the_table(serve_process, tmp_path):
    url = serve_process("--relay").url
    report = tmp_path / "report.html"
    options = ("--clients", "2", "--messages", "5", "--json", "/dev/full", "--html", str(report))
    status, output, errors = run("load", url, *options)
    assert status == 3
    assert_one_line(errors, "/dev/full", "No space left on device")
    assert "5 messages" in output
    assert report.read_text().rstrip().endswith("</html>")


@pytest.mark.parametrize("missing", EVERY_STREAM, ids=str)
def test_a_load_whose_streams_are_closed_writes_its_file(serve_process, tmp_path, missing):
    path = tmp_path / "result.json"
    options = ("--clients", "2", "--messages", "5", "--json", str(path))
    status, _, _ = run("load", serve_process("--relay").url, *options, **dict.fromkeys(STREAMS),
                       preexec_fn=without(*missing))
    assert status == 0
    assert json.loads(path.read_text())["published"] == 5
