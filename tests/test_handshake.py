"""The opening handshake: what is accepted, and how what is not is refused."""

import asyncio
import gc
import os
import socket
import weakref
from contextlib import closing

import pytest
import websockets
from raw_client import RawClient, answer_of, ask, get, handshake
from reference import BINARY, PING, PONG, TEXT, Frame, client_frame
from support import until

from fastbcast import Hub, Reject, serve
from fastbcast.http._handshake import Handshake

# What is accepted.


async def test_the_accept_header_is_what_rfc_6455_computes_for_its_own_example():
    async with serve(Hub()) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(handshake(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ=="))
            lines = (await client.read_head()).lower().split("\r\n")
            assert lines[0].startswith("http/1.1 101 ")
            assert "upgrade: websocket" in lines
            assert "connection: upgrade" in lines
            assert "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in lines


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(handshake("/prices", Connection="keep-alive, Upgrade"), id="connection has keep-alive too"),
        pytest.param(handshake("/prices", Connection="Upgrade,keep-alive"), id="no space in the list"),
        pytest.param(handshake("/prices", Connection="UPGRADE", Upgrade="WebSocket"), id="values in another case"),
        pytest.param(
            handshake("/prices").replace(b"Connection: Upgrade", b"Connection: keep-alive\r\nConnection: Upgrade"),
            id="two Connection lines",
        ),
        pytest.param(
            handshake("/prices").replace(b"Sec-WebSocket-", b"SEC-WEBSOCKET-").replace(b"Upgrade: ", b"uPGRADE: "),
            id="header names in another case",
        ),
        pytest.param(handshake("/prices").replace(b"Version: 13", b"Version:\t 13 "), id="blanks around a value"),
        pytest.param(handshake("/prices", Upgrade="h2c, websocket"), id="other protocols offered"),
        pytest.param(handshake("/prices", Content_Length="0"), id="an empty body"),
        pytest.param(handshake("/prices", Content_Length="00"), id="an empty body, with zeros"),
        pytest.param(handshake("/prices", Sec_WebSocket_Extensions="permessage-deflate"), id="extension offered"),
        pytest.param(handshake("/prices", Sec_WebSocket_Protocol="chat"), id="subprotocol offered"),
        pytest.param(handshake("/prices", Origin="https://anywhere.example"), id="origin"),
        pytest.param(handshake("/prices", Cookie="x" * 8000), id="long head below the limit"),
        pytest.param(handshake("/prices?token=abc"), id="query"),
        pytest.param(handshake("/prices/"), id="slash at the end"),
        pytest.param(handshake("/%70rices"), id="percent-encoded"),
        pytest.param(handshake("http://127.0.0.1/prices"), id="absolute form"),
    ],
)
async def test_a_handshake_as_clients_and_proxies_write_it_is_accepted(request_bytes):
    hub = Hub()
    async with serve(hub) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(request_bytes)
            head = (await client.read_head()).lower()
            assert head.startswith("http/1.1 101 ")
            assert "sec-websocket-extensions" not in head
            assert "sec-websocket-protocol" not in head
            hub.publish("prices", "hello")
            assert await client.read_frames(1) == [Frame(TEXT, b"hello")]


async def test_a_handshake_may_arrive_byte_by_byte():
    hub = Hub()
    async with serve(hub) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in handshake("/prices"):
                await client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await client.read_head()).startswith("HTTP/1.1 101 ")
            hub.publish("prices", "hello")
            assert await client.read_payloads(1) == [b"hello"]


@pytest.mark.parametrize("is_async", [False, True], ids=["no hook", "async authorize"])
async def test_frames_sent_together_with_the_handshake_are_not_lost(is_async):
    hub = Hub()
    received = []
    hub.on_message(lambda client, message: received.append(message))
    if is_async:

        @hub.authorize
        async def yields(request):
            await asyncio.sleep(0)

    first, last = client_frame(TEXT, b"first"), client_frame(BINARY, os.urandom(5000))
    async with serve(hub) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(handshake() + first + client_frame(PING, b"?") + last[:3000])
            assert (await client.read_head()).startswith("HTTP/1.1 101 ")
            assert await client.read_frames(1) == [Frame(PONG, b"?")]
            await client.send(last[3000:])
            await until(lambda: len(received) == 2)
    assert received[0] == "first"
    assert len(received[1]) == 5000


async def test_the_websockets_library_talks_to_it():
    hub = Hub()
    hub.on_message(hub.relay)
    async with serve(hub) as server:
        async with websockets.connect(f"ws://127.0.0.1:{server.port}/prices") as client:
            for message in ("text ü", b"\x00binary", "", b"", "x" * 200, b"y" * 70_000):
                await client.send(message)
                assert await client.recv() == message
            await client.send(["in ", "frag", "ments"])
            assert await client.recv() == "in fragments"
            await (await client.ping(b"alive"))


# The subprotocol.


async def settled_on(port, **headers):
    """What the response says of the subprotocol."""
    with closing(await RawClient.connect_tcp(port)) as client:
        request = handshake("/prices", **headers)
        await client.send(request)
        status, *lines = (await client.read_head()).split("\r\n")
        assert status.startswith("HTTP/1.1 101 ")
        return [line.partition(": ")[2] for line in lines if line.lower().startswith("sec-websocket-protocol:")]


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (None, []),
        ("chat", ["chat"]),
        ("chat, superchat", ["superchat"]),
        ("superchat,chat", ["superchat"]),
        ("other", []),
        ("CHAT", []),
        (" other ,\tchat ", ["chat"]),
        ("other, , chat,", ["chat"]),
        ("other\r\nSec-WebSocket-Protocol: chat", ["chat"]),
    ],
)
async def test_the_server_takes_the_first_of_its_subprotocols_that_the_client_offers(offered, expected):
    hub = Hub()
    connected = []
    hub.on_connect(connected.append)
    async with serve(hub, subprotocols=["superchat", "chat"]) as server:
        assert await settled_on(server.port, Sec_WebSocket_Protocol=offered) == expected
        await until(lambda: connected)
        assert connected[0].subprotocol == (expected[0] if expected else None)


async def test_the_websockets_library_agrees_on_a_subprotocol():
    async with serve(Hub(), subprotocols=["chat"]) as server:
        url = f"ws://127.0.0.1:{server.port}/prices"
        async with websockets.connect(url, subprotocols=["other", "chat"]) as client:
            assert client.subprotocol == "chat"


# The origin.


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        (None, True),
        ("https://example.org", True),
        ("HTTPS://Example.ORG", True),
        ("https://a.example.net:8443", True),
        ("http://example.org", False),
        ("https://example.org.evil.example", False),
        ("https://evil.example", False),
        ("null", False),
        ("https://example.org, https://evil.example", False),
        ("https://evil.example\r\nOrigin: https://example.org", False),
        ("", False),
    ],
)
async def test_a_page_of_another_origin_is_refused_with_403(origin, is_allowed):
    async with serve(Hub(), origins=["https://example.org", "https://*.example.net:8443"]) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(handshake(Origin=origin))
            status = (await client.read_head()).split()[1]
            assert status == ("101" if is_allowed else "403")
            assert server.stats()["refused"] == ({} if is_allowed else {"origins": 1})


@pytest.mark.parametrize("hook", ["no hook", "async", "refuses", "async, refuses", "async, fails"])
@pytest.mark.parametrize("request_bytes", [handshake(), get("/?listeners")], ids=["handshake", "question"])
def test_nothing_of_a_handshake_stays_behind_it(run, monkeypatch, request_bytes, hook):
    handshakes = []

    class Recording(Handshake):
        __slots__ = ("__weakref__",)

        def __init__(self, *arguments):
            handshakes.append(weakref.ref(self))

    monkeypatch.setattr("fastbcast.server.server.Handshake", Recording)

    async def scenario():
        hub = Hub()

        def decide(request):
            if hook != "async":
                raise LookupError if "fails" in hook else Reject(401)

        async def decide_later(request):
            await asyncio.sleep(0)
            decide(request)

        if hook != "no hook":
            hub.authorize(decide_later if "async" in hook else decide)
        async with serve(hub, page=True) as server:
            with closing(await RawClient.connect_tcp(server.port)) as client:
                await client.send(request_bytes)
                head = await client.read_head()
                if not head.startswith("HTTP/1.1 101 "):
                    client.close()
                await until(lambda: not handshakes[0]())     # without a collection of cycles

    gc.disable()
    try:
        run(scenario())
    finally:
        gc.enable()


# What is refused.


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(handshake(Sec_WebSocket_Key="c2hvcnQ="), 400, id="short key"),
        pytest.param(handshake(Sec_WebSocket_Key="!" * 24), 400, id="key is not base64"),
        pytest.param(handshake(Sec_WebSocket_Key="ü" * 12), 400, id="key is not ASCII"),
        pytest.param(handshake(Sec_WebSocket_Key=None), 400, id="no key"),
        pytest.param(handshake().replace(b"HTTP/1.1", b"HTTP/1.0"), 400, id="HTTP 1.0"),
        pytest.param(handshake(Content_Length="3") + b"abc", 400, id="content length"),
        pytest.param(handshake(Transfer_Encoding="chunked") + b"0\r\n\r\n", 400, id="chunked body"),
        pytest.param(handshake(Upgrade="h2c"), 426, id="upgrade to something else"),
        pytest.param(handshake(Connection="close"), 400, id="connection lacks upgrade"),
        pytest.param(handshake(Connection=None), 400, id="no connection header"),
        pytest.param(handshake(Connection="notupgrade"), 400, id="upgrade as part of a word"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, id="TLS on the plain port"),
        pytest.param(b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, id="malformed header"),
        pytest.param(b"BREW / HTTP/1.1\r\n\r\n", 400, id="unknown method"),
        pytest.param(b"\r\n\r\n\r\n\r\n", 400, id="no request line"),
        pytest.param(handshake("*"), 400, id="the asterisk form"),
        pytest.param(handshake("example.org:80"), 400, id="the authority form"),
        pytest.param(handshake("prices"), 400, id="path without a slash"),
        pytest.param(handshake("/%ff"), 400, id="path is not UTF-8"),
        pytest.param(handshake("/a%00b"), 400, id="path with a control character"),
        pytest.param(handshake("/" + "x" * 256), 400, id="channel name too long"),
        pytest.param(handshake("/" + "%C3%BC" * 128), 400, id="channel name too long in bytes"),
        pytest.param(handshake(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==, x"), 400, id="two keys"),
        pytest.param(handshake(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==\n"), 400, id="key with a bare line feed"),
        pytest.param(handshake(Host=None), 400, id="no host"),
        pytest.param(handshake(Host="a\r\nHost: b"), 400, id="two hosts"),
        pytest.param(handshake(Host="a\r\nHost: a"), 400, id="one host twice"),
        pytest.param(handshake(Host="\r\nHost:"), 400, id="two empty hosts"),
        pytest.param(handshake(Sec_WebSocket_Version="13\r\nSec-WebSocket-Version: 13"), 400, id="one version twice"),
        pytest.param(handshake(Sec_WebSocket_Version="13, 8"), 400, id="two versions"),
        pytest.param(handshake(Sec_WebSocket_Protocol="a b"), 400, id="subprotocol with a blank"),
        pytest.param(handshake(Sec_WebSocket_Protocol="chat, (x)"), 400, id="subprotocol that is no token"),
        pytest.param(handshake(Sec_WebSocket_Protocol="ü"), 400, id="subprotocol that is not ASCII"),
        pytest.param(handshake(Sec_WebSocket_Protocol=""), 400, id="empty list of subprotocols"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 405, id="HTTP 2"),
        pytest.param(handshake().replace(b"GET", b"POST"), 405, id="POST with upgrade"),
        pytest.param(get("*", method="OPTIONS"), 405, id="OPTIONS *"),
        pytest.param(get("example.org:443", method="CONNECT"), 405, id="CONNECT"),
        pytest.param(get(method="PUT", Content_Length="3") + b"abc", 405, id="PUT"),
        pytest.param(get(method="TRACE"), 405, id="TRACE"),
        pytest.param(get(method="POST", Content_Length="0"), 405, id="POST"),
        pytest.param(get(method="DELETE"), 405, id="DELETE"),
        pytest.param(handshake(Sec_WebSocket_Version="8"), 426, id="old version"),
        pytest.param(handshake(Sec_WebSocket_Version=None), 426, id="no version"),
        pytest.param(handshake(Cookie="x" * 17_000), 431, id="big head"),
        pytest.param(b"GET / HTTP/1.1\r\nCookie: " + b"x" * 17_000, 431, id="big head without an end"),
    ],
)
async def test_a_wrong_handshake_is_answered_with_its_status_and_hurts_nobody(request_bytes, status):
    hub = Hub()
    async with serve(hub) as server:
        with closing(await RawClient.connect(server.port, "/prices")) as healthy:
            answered, headers, body = await ask(server.port, request_bytes)
            assert answered == status
            assert headers["connection"].split(", ")[0] == "close"
            assert int(headers["content-length"]) == len(body)
            assert ("allow" in headers) == (status == 405)
            assert headers.get("sec-websocket-version") == ("13" if status == 426 else None)
            assert hub.stats()["clients"] == 1
            hub.publish("prices", "hello")
            assert await healthy.read_payloads(1) == [b"hello"]


async def test_405_says_what_is_allowed():
    async with serve(Hub()) as server:
        _, headers, _ = await ask(server.port, get(method="PUT"))
        assert headers["allow"] == "GET, HEAD"


async def test_426_names_the_protocol_to_upgrade_to():
    async with serve(Hub()) as server:  # RFC 9110 section 15.5.22: the response MUST have an Upgrade header
        for request in (handshake(Sec_WebSocket_Version="8"), get()):
            status, headers, _ = await ask(server.port, request)
            assert status == 426
            assert headers.get("upgrade", "").lower() == "websocket"


@pytest.mark.parametrize("length", [255, 256])
async def test_a_channel_name_may_have_255_bytes(length):
    hub = Hub()
    async with serve(hub) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(handshake("/" + "x" * length))
            assert ("101" in (await client.read_head()).split("\r\n")[0]) == (length == 255)


async def test_the_head_may_have_exactly_max_head_bytes():
    head_bytes = len(handshake(Cookie="")) - 4  # without the blank line that ends it
    async with serve(Hub(), max_head_bytes=head_bytes + 100) as server:
        with closing(await RawClient.connect(server.port, Cookie="x" * 100)):
            pass
        status, _, _ = await ask(server.port, handshake(Cookie="x" * 101))
        assert status == 431


async def test_the_head_may_have_exactly_max_head_lines():
    head_lines = len(handshake().splitlines()) - 1  # without the blank line that ends it
    async with serve(Hub(), max_head_lines=head_lines) as server:
        with closing(await RawClient.connect(server.port)):
            pass
        status, _, _ = await ask(server.port, handshake(Cookie="x"))
        assert status == 431
        assert server.stats()["refused"] == {"max_head_lines": 1}


@pytest.mark.parametrize("start", [b"", handshake()[:-2]], ids=["nothing sent", "never ended"])
async def test_a_handshake_that_never_ends_is_answered_with_408(start):
    async with serve(Hub(), handshake_seconds=0.05) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(start)
            status, _, _ = await answer_of(client)
            assert status == 408


async def test_a_handshake_that_ended_is_not_cut_off_by_the_deadline():
    hub = Hub()
    async with serve(hub, handshake_seconds=0.05) as server:
        with closing(await RawClient.connect(server.port)) as client:
            with closing(await RawClient.connect_tcp(server.port)) as late:  # entered later, so it is overdue later
                assert (await answer_of(late))[0] == 408
            hub.publish("default", "still here")
            assert await client.read_payloads(1) == [b"still here"]


@pytest.mark.parametrize("vanish", [RawClient.close, RawClient.reset], ids=["fin", "rst"])
def test_a_client_that_vanishes_in_its_handshake_is_no_news(run, vanish, caplog):
    async def scenario():
        hub = Hub()
        async with serve(hub, handshake_seconds=60) as server:
            vanishing = await RawClient.connect_tcp(server.port)
            await vanishing.send(handshake()[:40])
            await until(lambda: len(server.handshakes) == 1)
            vanish(vanishing)
            await until(lambda: not server.handshakes)
            with closing(await RawClient.connect(server.port)) as client:
                hub.publish("default", "hello")
                assert await client.read_payloads(1) == [b"hello"]
            assert hub.stats()["clients"] <= 1

    run(scenario())
    assert caplog.records == []


async def test_half_a_handshake_and_the_end_of_the_stream_closes_the_connection():
    async with serve(Hub(), handshake_seconds=60) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(handshake()[:40])
            client.sock.shutdown(socket.SHUT_WR)
            assert await client.receive() is False
