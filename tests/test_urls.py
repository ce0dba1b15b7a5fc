"""`publish`, `listen` and `load` take a URL alike: interim answers, proxies, passwords, and what is shown of it."""

import base64
import itertools
import json
import os
import re
import socket
import subprocess
import threading
from contextlib import suppress

import pytest
from conftest import seconds
from load_support import make_key
from reference import CLOSE, TEXT, close_payload, encode_frame
from test_cli import COMMAND, assert_one_line, fastbcast_command, free_port, receive
from websockets.sync.client import connect

from fastbcast.load.connector import Connector
from fastbcast.load.plan import Plan, parse_header
from fastbcast.urls import hide_secrets, hide_secrets_in, prepare_url

CLIENTS = {
    "publish": ("publish", "{url}", "hello"),
    "listen": ("listen", "{url}"),
    "load": ("load", "{url}", "--clients", "1", "--listen", "--expect-prefix", "hello", "--duration", "0.2"),
}
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
ACCEPT = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
HELLO = encode_frame(TEXT, b"hello")
GOODBYE = {"publish": b"", "listen": HELLO + encode_frame(CLOSE, close_payload(1000)), "load": HELLO}


class ScriptedServer:
    """Answers each connection with what `make_answer(accept)` gives, in pieces, and keeps the requests."""

    def __init__(self, make_answer):
        self.requests = []
        self._make_answer = make_answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            sock, _ = self._listener.accept()
            with sock:
                sock.settimeout(seconds(20))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                request = b""
                while b"\r\n\r\n" not in request and (data := sock.recv(65536)):
                    request += data
                if not request:     # close() has connected
                    return
                self.requests.append(request.decode())
                key = re.search(rb"(?i)sec-websocket-key: (\S+)", request)[1]
                with suppress(ConnectionError):     # a client that has had enough may leave the rest unread
                    for piece in self._make_answer(make_key(key)[1]):
                        sock.sendall(piece)
                    if sock.recv(65536):
                        sock.sendall(encode_frame(CLOSE, close_payload(1000)))
                    while sock.recv(65536):
                        pass

    def close(self):
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()


@pytest.fixture
def scripted():
    servers = []

    def start(make_answer):
        servers.append(ScriptedServer(make_answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def command(name, url, *more, **environment):
    arguments = [argument.format(url=url) for argument in CLIENTS[name]]
    return fastbcast_command(*arguments, *more, env=os.environ | environment)


def in_pieces(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


# Interim answers.


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("client", CLIENTS)
def test_any_number_of_interim_answers_may_come_before_the_101(scripted, client, size):
    server = scripted(lambda accept: in_pieces(INTERIM * 2 + ACCEPT + accept + b"\r\n\r\n" + GOODBYE[client], size))
    status, output, errors = command(client, f"ws://{server.address}/")
    if client == "load":
        assert (errors, output.count("1 opened, 0 refused")) == ("", 1)
    else:
        assert (status, output, errors) == (0, "hello\n" if client == "listen" else "", "")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_refusal_after_an_interim_answer_is_the_one_that_is_told(scripted, client):
    server = scripted(lambda accept: [INTERIM + b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"])
    status, output, errors = command(client, f"ws://{server.address}/")
    assert (status, output) == (3 if client == "load" else 1, "")
    assert_one_line(errors, "403")


@pytest.mark.parametrize("client", ["publish", "listen"])
def test_a_server_that_goes_on_with_interim_answers_is_left(scripted, client):
    server = scripted(lambda accept: itertools.repeat(INTERIM, 2000))
    status, output, errors = command(client, f"ws://{server.address}/")
    assert (status, output) == (1, "")
    assert_one_line(errors)


# Proxies.


@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY", "all_proxy", "ws_proxy"])
@pytest.mark.parametrize("client", CLIENTS)
def test_no_proxy_of_the_environment_is_obeyed(scripted, client, variable):
    server = scripted(lambda accept: [ACCEPT + accept + b"\r\n\r\n" + GOODBYE[client]])
    command(client, f"ws://{server.address}/", **{variable: f"http://127.0.0.1:{free_port()}"})
    assert server.requests[0].startswith("GET / HTTP/1.1\r\n")


# Headers.


def headers_of(request):
    pairs = [line.split(": ", 1) for line in request.split("\r\n")[1:] if line]
    return [(name.lower(), value) for name, value in pairs]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_user_and_password_in_the_url_are_basic_authorization_and_no_part_of_host(scripted, client):
    server = scripted(lambda accept: [ACCEPT + accept + b"\r\n\r\n" + GOODBYE[client]])
    command(client, f"ws://Aladdin:open%20sesame@{server.address}/")
    headers = headers_of(server.requests[0])
    assert [value for name, value in headers if name == "host"] == [server.address]
    expected = "Basic " + base64.b64encode(b"Aladdin:open sesame").decode()
    assert [value for name, value in headers if name == "authorization"] == [expected]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_token_replaces_the_password_of_the_url(scripted, client):
    server = scripted(lambda accept: [ACCEPT + accept + b"\r\n\r\n" + GOODBYE[client]])
    command(client, f"ws://Aladdin:open@{server.address}/", FASTBCAST_TOKEN="t" * 32)
    found = [value for name, value in headers_of(server.requests[0]) if name == "authorization"]
    assert found == ["Bearer " + "t" * 32]


def request_of(**options):
    request, _ = Connector(Plan(url="ws://u:p@127.0.0.1:1/", **options)).make_request(0)
    return request


def test_a_header_of_the_user_replaces_the_loads_own():
    headers = headers_of(request_of(headers=(("hOST", "name"), ("AUTHORIZATION", "b")), token="a").decode())
    names = [name for name, _ in headers]
    assert len(names) == len(set(names))
    assert {"host": "name", "authorization": "b"}.items() <= dict(headers).items()


def test_a_header_is_sent_as_the_bytes_that_were_given():
    assert b"\r\nX: \xff\xc3\xbc\r\n" in request_of(headers=(("X", os.fsdecode(b"\xff\xc3\xbc")),))


@pytest.mark.parametrize(
    "name",
    ["Upgrade", "connection", "Sec-WebSocket-Key", "sec-websocket-version", "Sec-WebSocket-Extensions",
     "Sec-WebSocket-Accept", "Content-Length", "Transfer-Encoding"],
)
def test_a_header_that_makes_the_request_a_handshake_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} cannot be given"):
        parse_header(f"{name}: x")


@pytest.mark.parametrize("name", ["Origin", "User-Agent", "Sec-WebSocket-Protocol", "Cookie"])
def test_other_headers_are_taken(name):
    assert parse_header(f"{name}:  a: b ") == (name, "a: b")


@pytest.mark.parametrize("text", ["X", ": x", "X y: z", "X\x7f: z", "ü: z", "X: a\r\nY: b", "X: \0"])
def test_what_is_no_header_is_refused(text):
    with pytest.raises(ValueError, match="is not like"):
        parse_header(text)


def test_a_request_has_one_host():
    with pytest.raises(ValueError, match="there is one Host"):
        Plan(url="ws://x/", headers=(("Host", "a"), ("host", "b")))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_url_is_sent_in_ascii(scripted, client):
    server = scripted(lambda accept: [ACCEPT + accept + b"\r\n\r\n" + GOODBYE[client]])
    command(client, f"ws://{server.address}/straße%20?ü=ß%20")
    assert server.requests[0].startswith("GET /stra%C3%9Fe%20?%C3%BC=%C3%9F%20 HTTP/1.1\r\n")


def test_a_host_is_sent_as_dns_has_it():
    assert prepare_url("ws://bücher.example:1/") == ("ws://xn--bcher-kva.example:1/", None)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("end", "problem"), [("#part", "fragment"), (" HTTP/1.1", "blank"), ("\r\nX: y", "blank"), ("\x7f", "blank")]
)
def test_what_no_websocket_url_has_is_refused(client, end, problem):
    status, output, errors = command(client, f"ws://127.0.0.1:{free_port()}/{end}")
    assert (status, output) == (2 if client == "load" else 1, "")
    assert problem in errors


# Secrets.


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://h/", "ws://h/"),
        ("ws://h:1/a?token=s&x=y", "ws://h:1/a?***"),
        ("ws://u:p@h/a", "ws://***@h/a"),
        ("ws://u:p@q@h/a?s#t", "ws://***@h/a?***"),
        ("ws://h/a@b", "ws://h/a@b"),
        ("no url?s", "no url?***"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_secrets(url, shown):
    assert hide_secrets(url) == shown
    assert hide_secrets(shown) == shown


def test_urls_in_a_text_are_shown_without_secrets():
    text = "why? 'ws://u:p@h/?s' isn't: ws://h/?t: ws://h"
    assert hide_secrets_in(text) == "why? 'ws://***@h/?***' isn't: ws://h/?***: ws://h"


@pytest.mark.parametrize("url", ["ws://h/", "ws://h/a@b", "ws://[::1]:1/%C3%BC%20?a=b%26c&{channel}", ""])
def test_a_url_that_is_ascii_and_has_no_user_is_sent_as_it_is(url):
    assert prepare_url(url) == (url, None)


SECRETS = ("geheim", "sesame")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("url", ["ws://u:sesame@127.0.0.1:{port}/a?token=geheim", "http://u:sesame@h/?geheim",
                                 "wss://u:sesame@127.0.0.1:{port}/a?token=geheim", "ws://u:sesame@h:0/ ?geheim"])
def test_an_error_shows_no_secret_of_the_url(client, url):
    status, output, errors = command(client, url.format(port=free_port()))
    assert status != 0
    assert_one_line(errors, "***@")
    for secret in SECRETS:
        assert secret not in output + errors


def test_what_a_load_writes_shows_no_secret(serve_process, tmp_path):
    url = serve_process("--relay").url.replace("//", "//u:sesame@") + "prices?token=geheim"
    files = {name: tmp_path / name for name in ("json", "html")}
    status, output, errors = fastbcast_command(
        "load", url, "--clients", "2", "--messages", "5", *(f"--{name}={path}" for name, path in files.items()),
        "--header", "X: geheim", env=os.environ | {"FASTBCAST_TOKEN": "geheim"},
    )
    assert (status, errors) == (0, "")
    texts = [output, *(path.read_text() for path in files.values())]
    for text, secret in itertools.product(texts, SECRETS):
        assert secret not in text
    shown = json.loads(files["json"].read_text())["settings"]["url"]
    assert re.fullmatch(r"ws://\*\*\*@127\.0\.0\.1:\d+/prices\?\*\*\*", shown)


# Text.


@pytest.mark.parametrize("client", CLIENTS)
def test_a_url_that_is_not_text_is_a_usage_error(client):
    arguments = [argument.format(url="ws://127.0.0.1:1/") for argument in CLIENTS[client]]
    arguments[1] = arguments[1].encode() + b"\xff"
    status, output, errors = fastbcast_command(*arguments)
    assert (status, output) == (2, "")
    assert errors.endswith("Error: Invalid value for 'URL': it is not UTF-8 text\n")


def test_a_message_that_is_not_text_is_a_usage_error():
    status, output, errors = fastbcast_command("publish", "ws://127.0.0.1:1/", b"\xff")
    assert (status, output) == (2, "")
    assert errors.endswith("Error: Invalid value for '[MESSAGE]': it is not UTF-8 text\n")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_line_that_is_not_text_has_its_number_and_those_before_it_are_sent(serve_process, locale):
    server = serve_process("--relay")
    with connect(server.url) as client:
        done = subprocess.run(
            [*COMMAND, "publish", server.url], input="one\nü\nx".encode() + b"\xff\nfour\n", capture_output=True,
            env=os.environ | {"LC_ALL": locale}, timeout=seconds(20), check=False,
        )
        assert (done.returncode, done.stdout) == (1, b"")
        assert_one_line(done.stderr.decode(), "standard input: line 3 is not UTF-8 text")
        assert [receive(client), receive(client)] == ["one", "ü"]
        client.send("the next")
        assert receive(client) == "the next"


def test_the_end_of_a_line_is_lf_or_crlf_and_no_part_of_the_message(serve_process):
    server = serve_process("--relay")
    with connect(server.url) as client:
        lines = b"lf\ncrlf\r\n\r\na\rb\nmore\r\r\nno end\r"
        done = subprocess.run([*COMMAND, "publish", server.url], input=lines, timeout=seconds(20), check=False)
        assert done.returncode == 0
        assert [receive(client) for _ in range(6)] == ["lf", "crlf", "", "a\rb", "more\r", "no end\r"]
        assert fastbcast_command("publish", server.url, "an argument is sent as it is\r\n")[0] == 0
        assert receive(client) == "an argument is sent as it is\r\n"
