"""Requests as RFC 9110 and 9112 judge them, whatever they ask for; bytes that are no request are told so at once."""

import asyncio
import json
import socket
import ssl
from contextlib import closing

import pytest
from raw_client import RawClient, answer_of, ask, get, handshake, serving
from support import authorize_for_ever, until

from fastbcast import Hub, serve
from fastbcast.http._handshake import LINGER_BYTES

FOR_EVER = 1000
"""Seconds: what is answered in a test with this as handshake_seconds is not answered because they are over."""


def request(first_line, *lines):
    return "\r\n".join([first_line, *lines, "", ""]).encode("latin-1")


def page(*lines):
    return request("GET / HTTP/1.1", *lines)


def target(text):
    return request(f"GET {text} HTTP/1.1", "Host: a")


# RFC 9112 section 3.2: the Host header.

WRONG_HOSTS = {
    "none": [],
    "two": ["Host: a", "Host: b"],
    "one twice": ["Host: a", "Host: a"],
    "two empty ones": ["Host:", "Host:"],
    "a blank in it": ["Host: a b/c"],
    "a path": ["Host: a/b"],
    "a user's name": ["Host: user@a"],
    "a port that is too large": ["Host: a:65536"],
    "a port that is no number": ["Host: a:http"],
    "an IPv6 address without brackets": ["Host: ::1"],
    "no address in brackets": ["Host: [a]"],
}


@pytest.mark.parametrize("lines", WRONG_HOSTS.values(), ids=WRONG_HOSTS)
async def test_whatever_a_request_asks_for_it_has_one_host(lines):
    upgrade = handshake(Host=None).split(b"\r\n", 1)[1].decode().split("\r\n")[:-2]

    async with serve(Hub(), page=True) as server:
        for first_line, more in (
            ("GET / HTTP/1.1", []),
            ("HEAD / HTTP/1.1", []),
            ("GET /?listeners HTTP/1.1", []),
            ("GET /favicon.ico HTTP/1.1", []),
            ("GET http://a/ HTTP/1.1", []),
            ("POST / HTTP/1.1", ["Content-Length: 0"]),
            ("GET /prices HTTP/1.1", upgrade),
        ):
            assert (await ask(server.port, request(first_line, *lines, *more)))[0] == 400, first_line


@pytest.mark.parametrize("host", ["", "a", "a:80", "[::1]:8080", "xn--exmple-cua.org", "a_b.local."])
async def test_a_host_as_clients_write_it_is_accepted(host):
    async with serve(Hub(), page=True) as server:
        assert (await ask(server.port, page(f"Host: {host}")))[0] == 200
        with closing(await RawClient.connect(server.port, Host=host)):
            pass


# The rest of a head.

ANSWERS = {
    "HTTP/1.0 without a host": (request("GET / HTTP/1.0"), 200),
    "HTTP/1.0 with two hosts": (request("GET / HTTP/1.0", "Host: a", "Host: a"), 400),
    "HTTP/1.0 with a transfer coding": (request("GET / HTTP/1.0", "Host: a", "Transfer-Encoding: chunked"), 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2.0 on one line": (request("GET / HTTP/2.0", "Host: a"), 505),
    "RTSP": (request("GET / RTSP/1.0", "Host: a"), 400),
    "ICE": (request("SOURCE / ICE/1.0", "Host: a"), 400),
    "HTTP/1.2": (request("GET / HTTP/1.2", "Host: a"), 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 405),
    "two lengths": (page("Host: a", "Content-Length: 1", "Content-Length: 2"), 400),
    "a list of lengths": (page("Host: a", "Content-Length: 1, 1"), 400),
    "a length with a sign": (page("Host: a", "Content-Length: +1"), 400),
    "a length that is too large": (page("Host: a", f"Content-Length: {'9' * 40}"), 400),
    "a length beside a transfer coding": (page("Host: a", "Content-Length: 1", "Transfer-Encoding: chunked"), 400),
    "a transfer coding behind chunked": (page("Host: a", "Transfer-Encoding: chunked, gzip"), 400),
    "a blank before a colon": (page("Host : a"), 400),
    "a folded line": (page("Host: a", "X: a", " b"), 400),
    "a line before the first header": (page(" X: a", "Host: a"), 400),
    "a bare line feed": (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    "a bare carriage return": (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    "only line feeds": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "an empty line before the request": (b"\r\n" + get(), 200),
    "no header's name": (page("Host: a", ": x"), 400),
    "a blank in a header's name": (page("Host: a", "X Y: x"), 400),
    "a NUL in a header": (page("Host: a", "X: \x00"), 400),
    "a method of another case": (request("get / HTTP/1.1", "Host: a"), 400),
    "a method that is too long": (request(f"{'G' * 100} / HTTP/1.1", "Host: a"), 400),
    "OPTIONS *": (request("OPTIONS * HTTP/1.1", "Host: a"), 405),
    "CONNECT": (request("CONNECT a:80 HTTP/1.1", "Host: a:80"), 405),
    "GET *": (target("*"), 400),
    "the authority form": (target("a:80"), 400),
    "the absolute form": (target("http://a/prices"), 200),
    "the absolute form of a WebSocket URL": (target("WSS://[::1]:443"), 200),
    "the absolute form of another scheme": (target("ftp://a/prices"), 400),
    "the absolute form with a user's name": (target("http://user:password@a/prices"), 400),
    "the absolute form without a host": (target("http:///prices"), 400),
    "the absolute form with a port that is too large": (target("http://a:99999/prices"), 400),
    "the absolute form with a fragment": (target("http://a/prices#x"), 400),
    "a fragment": (target("/prices#x"), 400),
    "a fragment in the query": (target("/prices?x#y"), 400),
    "two slashes": (target("//prices"), 200),
    "a percent sign that begins no code": (target("/100%"), 200),
    "what 100-continue would wait for": (page("Host: a", "Content-Length: 3", "Expect: 100-continue"), 200),
}


@pytest.mark.parametrize(("sent", "status"), ANSWERS.values(), ids=ANSWERS)
async def test_a_request_is_answered_as_http_says(sent, status):
    async with serve(Hub(), page=True, handshake_seconds=FOR_EVER) as server:
        assert (await ask(server.port, sent))[0] == status


async def test_a_percent_sign_that_begins_no_code_is_itself_as_browsers_send_it():
    async with serve(Hub(), page=True) as server:
        for path in ("/100%?listeners", "/100%25?listeners"):
            assert json.loads((await ask(server.port, target(path)))[2])["channel"] == "100%"


# RFC 9110 section 7.8: an upgrade that is offered need not be taken up.

OFFERS = {
    "curl --http2": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAA"],
    "Java": ["Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk", "Upgrade: h2c"],
    "TLS/1.0": ["Connection: Upgrade", "Upgrade: TLS/1.0"],
    "without a Connection header": ["Upgrade: h2c"],
    "a version of websocket": ["Connection: Upgrade", "Upgrade: websocket/13"],
}


@pytest.mark.parametrize("lines", OFFERS.values(), ids=OFFERS)
async def test_an_offer_to_speak_another_protocol_is_ignored(lines):
    async with serve(Hub(), page=True) as server:
        status, headers, body = await ask(server.port, page("Host: a", *lines))
        assert status == 200
        assert "upgrade" not in headers
        assert b"<html" in body
        _, _, body = await ask(server.port, request("GET /prices?listeners HTTP/1.1", "Host: a", *lines))
        assert json.loads(body) == {"channel": "prices", "listeners": 0}
        # llhttp reads no body behind such a head: that is no matter here, and the answer arrives all the same.
        post = request("POST / HTTP/1.1", "Host: a", *lines, f"Content-Length: {LINGER_BYTES // 2}")
        assert (await ask(server.port, post + bytes(LINGER_BYTES // 2)))[0] == 405
    async with serve(Hub()) as server:
        status, headers, _ = await ask(server.port, page("Host: a", *lines))
        assert status == 426
        assert headers["upgrade"] == "websocket"


# Bytes that no request begins with.

NO_REQUESTS = {
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "NUL": b"\x00",
    "a control character": b"\x1b",
    "a byte that is not ASCII": b"\xff",
    "an SSH banner": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a line of the PROXY protocol": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "the second version of that": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c",
    "SMTP": b"EHLO a.example\r\n",
    "Redis": b"*1\r\n",
    "a control character in the target": b"GET /\x01",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00",
    "a line without a colon": b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n",
}


@pytest.mark.parametrize("is_split", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("sent", NO_REQUESTS.values(), ids=NO_REQUESTS)
async def test_bytes_that_cannot_be_a_request_are_answered_before_the_head_ends(sent, is_split):
    async with serve(Hub(), handshake_seconds=FOR_EVER) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            for part in ([bytes([byte]) for byte in sent] if is_split else [sent]):
                await client.send(part)
                await asyncio.sleep(0)
            status, headers, _ = await answer_of(client)
            assert (status, headers["connection"]) == (400, "close")
        await until(lambda: not server.handshakes)
        assert server.stats()["responses"] == {400: 1}


async def test_too_many_lines_are_refused_before_the_head_ends():
    async with serve(Hub(), max_head_lines=3, handshake_seconds=FOR_EVER) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 3)
            assert (await answer_of(client))[0] == 431


@pytest.mark.parametrize(
    "sent",
    [get(), get(method="OPTIONS"), get(method="POST", Content_Length=LINGER_BYTES // 2) + bytes(LINGER_BYTES // 2),
     b"SSH-2.0-OpenSSH_9.2\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"],
    ids=["GET", "OPTIONS", "POST with a body", "an SSH banner", "a line of the PROXY protocol"],
)
async def test_plain_text_on_the_port_of_tls_is_told_so_in_plain_http(tls, monkeypatch, sent):
    monkeypatch.setattr(RawClient, "client_tls", None)

    async with serving(Hub(), page=True, handshake_seconds=FOR_EVER) as server:
        status, _, body = await ask(server.port, sent)
        assert status == 400
        assert b"https:// or wss://" in body
        await until(lambda: not server.handshakes)
        assert server.stats()["refused"] == {"tls": 1}


@pytest.mark.parametrize("sent", [b"\x00", b"\x15", b"\r"], ids=["NUL", "an alert", "an empty line"])
async def test_bytes_that_cannot_be_tls_end_the_connection_at_once(tls, monkeypatch, sent):
    monkeypatch.setattr(RawClient, "client_tls", None)

    async with serving(Hub(), handshake_seconds=FOR_EVER) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(sent)
            assert not await client.receive()
        await until(lambda: not server.handshakes)
        assert server.stats()["refused"] == {"tls": 1}


# RFC 9293 section 3.6: a client may send FIN behind its request, and read on.


def decide_at(hub, event):
    """An authorize hook that waits for `event`."""

    @hub.authorize
    async def decide(request):
        await event.wait()


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "tls"])
async def test_a_question_with_fin_behind_it_is_answered_when_an_async_hook_has_decided(request, is_encrypted):
    if is_encrypted:
        request.getfixturevalue("tls")

    hub = Hub()
    decided = asyncio.Event()
    decide_at(hub, decided)
    async with serving(hub, page=True, authorize_seconds=FOR_EVER) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(get("/prices?listeners"))
            if is_encrypted:
                with pytest.raises(ssl.SSLWantReadError):
                    client.tls.unwrap()
                await asyncio.get_running_loop().sock_sendall(client.sock, client.outgoing.read())
            client.sock.shutdown(socket.SHUT_WR)
            with closing(await RawClient.connect_tcp(server.port)) as later:    # the FIN was read before it
                await later.send(get())
                assert (await answer_of(later))[0] == 200
            decided.set()
            status, _, body = await answer_of(client)
            assert (status, json.loads(body)) == (200, {"channel": "prices", "listeners": 0})
        await until(lambda: not server.handshakes)


async def test_a_half_closed_question_that_is_never_decided_ends_with_authorize_seconds():
    hub = Hub()
    authorize_for_ever(hub)
    async with serve(hub, page=True, authorize_seconds=0.05) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(get("/prices?listeners"))
            client.sock.shutdown(socket.SHUT_WR)
            assert (await answer_of(client))[0] == 503
        await until(lambda: not server.handshakes)


async def test_a_handshake_with_fin_behind_it_is_that_of_a_client_that_has_left():
    hub = Hub()
    entered, cancelled = authorize_for_ever(hub)
    async with serve(hub, authorize_seconds=FOR_EVER) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(handshake())
            await entered.wait()
            client.sock.shutdown(socket.SHUT_WR)
            await cancelled.wait()
            assert not await client.receive()
            assert server.stats()["responses"] == {}
