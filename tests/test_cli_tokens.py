"""Tokens at the command line: real servers, and the clients people have, each with the way it can present one."""

import os
import re
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from playwright.sync_api import expect
from test_cli import COMMAND, assert_one_line, fastbcast_command, poll_until, receive
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

READER = "reader-0123456789abcdef"
WRITER = "writer+/~._-0123456789=="
STRANGER = "stranger-0123456789abcdef"


@pytest.fixture
def write(tmp_path):
    def write_file(content, name, mode=0o600):
        path = tmp_path / name
        path.write_text(content)
        path.chmod(mode)
        return str(path)

    return write_file


@pytest.fixture
def server(serve_process, write):
    """Prices for readers, and for the one writer everything."""
    return serve_process(
        "--subscribe-token-file", write(f"{READER} prices*\n{WRITER}\n", "subscribe"),
        "--publish-token-file", write(f"{WRITER}\n", "publish"),
    )


def connect_with(url, token):
    return connect(url, additional_headers={"Authorization": f"Bearer {token}"})


def with_token(token):
    """The environment of a command that finds `token` there."""
    return {"env": os.environ | {"FASTBCAST_TOKEN": token}}


# The websockets library.


@pytest.mark.parametrize("way", ["header", "query"])
def test_a_reader_gets_what_the_writer_publishes_and_cannot_publish(server, way):
    url = server.url + "prices"
    with (
        connect_with(url, READER) if way == "header" else connect(f"{url}?token={READER}") as reader,
        connect_with(url, WRITER) as writer,
    ):
        writer.send("64000")
        assert receive(reader) == receive(writer) == "64000"
        reader.send("1")
        with pytest.raises(ConnectionClosed) as caught:
            receive(reader)
        assert caught.value.rcvd.code == 1008
        writer.send("64001")
        assert receive(writer) == "64001"
    assert server.stop() == (0, "", "")


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [("prices", None, 401), ("prices", STRANGER, 401), ("news", READER, 403), ("prices", READER[:-1], 401)],
)
def test_who_has_no_token_for_the_channel_is_refused_and_nothing_of_it_is_logged(server, path, token, status):
    url = server.url + path
    ways = [(url, {"Authorization": f"Bearer {token}"}), (f"{url}?token={token}", {})] if token else [(url, {})]
    for address, headers in ways:
        with pytest.raises(InvalidStatus) as caught, connect(address, additional_headers=headers):
            pass
        assert caught.value.response.status_code == status
        assert caught.value.response.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
    assert server.stop() == (0, "", "")


def test_sighup_reads_the_files_again_and_drops_nobody(serve_process, write):
    def may_enter(token):
        try:
            with connect_with(server.url, token):
                return True
        except InvalidStatus as refusal:
            assert refusal.response.status_code == 401
            return False

    path = write(READER, "subscribe")
    server = serve_process("--relay", "--subscribe-token-file", path)
    with connect_with(server.url, READER) as reader:
        write("short", "subscribe")
        server.process.send_signal(signal.SIGHUP)
        assert b"tokens_not_reloaded" in server.process.stderr.readline()
        assert may_enter(READER)
        write(WRITER, "subscribe")
        server.process.send_signal(signal.SIGHUP)
        poll_until(lambda: may_enter(WRITER))
        assert not may_enter(READER)
        reader.send("still here, with the rights that I came in with")
        assert receive(reader)
    assert server.stop() == (0, "", "")


def test_with_a_publish_file_alone_everybody_may_listen(serve_process, write):
    server = serve_process("--publish-token-file", write(WRITER, "publish"))
    with connect(server.url) as listener, connect_with(server.url, WRITER) as writer:
        writer.send("hello")
        assert receive(listener) == "hello"
        listener.send("me too")
        with pytest.raises(ConnectionClosed, match="publishing is not allowed"):
            receive(listener)


def test_with_relay_and_a_subscribe_file_its_holders_may_publish_where_they_subscribe(serve_process, write):
    server = serve_process("--relay", "--subscribe-token-file", write(f"{READER} prices", "subscribe"))
    with connect_with(server.url + "prices", READER) as reader:
        reader.send("hello")
        assert receive(reader) == "hello"
    with pytest.raises(InvalidStatus, match="401"), connect(server.url + "prices"):
        pass


# Chromium, on the page.


def test_the_page_passes_on_the_token_of_its_address(server, browser):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{server.http_url}prices?token={WRITER}")     # with a plus sign that nobody encoded
    expect(page.locator("#state")).to_have_text("connected")
    expect(page.locator("#listeners")).to_have_text("1")
    with connect_with(server.url + "prices", READER) as reader:
        page.locator("#message-input").fill("from the page")
        page.keyboard.press("Enter")
        assert receive(reader) == "from the page"
    expect(page.locator("#messages .text")).to_have_text(["from the page"])
    page.goto(f"{server.http_url}prices?token={READER}")
    expect(page.locator("#state")).to_have_text("connected")
    page.locator("#message-input").fill("not allowed")
    page.keyboard.press("Enter")
    expect(page.locator("#closed")).to_have_text("Closed with 1008: publishing is not allowed.")
    page.goto(f"{server.http_url}prices")
    expect(page.locator("#closed")).to_have_text(re.compile("Cannot connect"))
    context.close()


# Our own commands.


@pytest.mark.parametrize("way", ["file", "variable"])
def test_publish_presents_its_token(server, write, way):
    arguments = ("--token-file", write(f"# mine\n{WRITER}\n", "own")) if way == "file" else ()
    options = {} if way == "file" else with_token(WRITER)
    with connect_with(server.url + "prices", READER) as reader:
        assert fastbcast_command("publish", *arguments, server.url + "prices", "64000", **options) == (0, "", "")
        assert receive(reader) == "64000"


def test_publish_with_a_token_that_may_only_read_says_so(server):
    status, output, errors = fastbcast_command("publish", server.url + "prices", "x", **with_token(READER))
    assert (status, output) == (1, "")
    assert_one_line(errors, "1008", "publishing is not allowed")


@pytest.mark.parametrize("command", [("publish", "{url}", "x"), ("listen", "{url}")])
@pytest.mark.parametrize("way", ["variable", "query"])
def test_a_command_whose_token_is_refused_does_not_show_it(server, command, way):
    url = server.url + (f"?token={STRANGER}" if way == "query" else "")
    options = with_token(STRANGER) if way == "variable" else {}
    status, output, errors = fastbcast_command(*(word.format(url=url) for word in command), **options)
    assert (status, output) == (1, "")
    assert_one_line(errors, "handshake refused", "401")
    assert STRANGER not in errors


@pytest.mark.parametrize("command", [("publish", "{url}", "x"), ("listen", "{url}")])
def test_what_is_no_url_is_told_without_its_query(command):
    url = f"https://127.0.0.1/?token={STRANGER}"
    status, output, errors = fastbcast_command(*(word.format(url=url) for word in command))
    assert (status, output) == (1, "")
    assert_one_line(errors, "not a WebSocket URL")
    assert STRANGER not in errors


def test_listen_presents_its_token(server, write, tmp_path):
    output = tmp_path / "output"
    with output.open("wb") as file:
        listener = subprocess.Popen(
            [*COMMAND, "listen", "--token-file", write(READER, "own"), server.url + "prices"], stdout=file
        )
    try:
        with connect_with(server.url + "prices", WRITER) as writer:

            def is_heard():
                writer.send("64000")
                assert receive(writer) == "64000"
                return output.read_text().startswith("64000\n")

            poll_until(is_heard)
    finally:
        listener.kill()
        listener.wait()


def test_load_presents_its_token(server, write):
    path = write(WRITER, "own")
    arguments = ("--clients", "2", "--messages", "3", "--quiet")
    assert fastbcast_command("load", server.url, *arguments, "--token-file", path)[0] == 0
    status, _, errors = fastbcast_command("load", server.url, *arguments)
    assert status == 3
    assert "401" in errors


@pytest.mark.parametrize("command", [("publish", "{url}", "x"), ("listen", "{url}")])
def test_a_redirect_does_not_take_the_token_elsewhere(command):
    asked = []

    class Redirect(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(302)
            self.send_header("Location", f"ws://127.0.0.1:{other.server_port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Redirect) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        url = f"ws://127.0.0.1:{other.server_port}/"
        status, output, errors = fastbcast_command(*(word.format(url=url) for word in command), **with_token(READER))
        other.shutdown()
        thread.join()
    assert asked == [("/", f"Bearer {READER}")]
    assert (status, output) == (1, "")
    assert_one_line(errors, "handshake refused", "302")


# Usage.


def test_relay_and_a_publish_file_together_are_a_usage_error(write):
    status, output, errors = fastbcast_command(
        "serve", "--port", "0", "--relay", "--publish-token-file", write(WRITER, "publish")
    )
    assert (status, output) == (2, "")
    assert "--relay" in errors.splitlines()[-1]
    assert "--publish-token-file" in errors.splitlines()[-1]


@pytest.mark.parametrize("option", ["--subscribe-token-file", "--publish-token-file"])
@pytest.mark.parametrize("content", [None, "", "short", f"{READER}\n{READER},x\n"])
def test_a_token_file_that_cannot_be_used_is_told_in_one_line(write, tmp_path, option, content):
    path = str(tmp_path / "absent") if content is None else write(content, "tokens")
    status, output, errors = fastbcast_command("serve", "--port", "0", option, path)
    assert (status, output) == (2, "")
    assert_one_line(errors, path)
    assert READER not in errors


def test_a_token_file_that_everybody_can_read_is_warned_of(serve_process, write):
    path = write(READER, "tokens", mode=0o644)
    status, output, errors = serve_process("--subscribe-token-file", path).stop()
    assert (status, output) == (0, "")
    assert errors.count("\n") == 1
    assert "WARNING" in errors
    assert path in errors


@pytest.mark.parametrize("command", [("publish", "ws://127.0.0.1:1/", "x"), ("listen", "ws://127.0.0.1:1/")])
@pytest.mark.parametrize("way", ["file", "variable"])
def test_a_token_of_one_s_own_that_cannot_be_used_is_told_in_one_line(write, command, way):
    bad = f"{READER},"
    arguments = ("--token-file", write(bad, "own")) if way == "file" else ()
    status, output, errors = fastbcast_command(command[0], *arguments, *command[1:], **with_token(bad))
    assert (status, output) == (2, "")
    assert_one_line(errors, "own" if way == "file" else "$FASTBCAST_TOKEN", "characters that no token has")
    assert READER not in errors
