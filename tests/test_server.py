"""The way in and the way out: handshake, plain HTTP, limits, bad input, closing a server."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import resource
import socket
from contextlib import closing

import pytest
import websockets
from raw_client import RawClient, handshake
from reference import BINARY, CLOSE, PING, PONG, TEXT, Frame, client_frame, encode_frame

from fastbcast import Hub, Reject, serve


async def until(condition):
    """Give the loop turns until `condition()` is true; the fixture `run` bounds it."""
    while not condition():
        await asyncio.sleep(0)


async def ask(port, request, pieces=None):
    """Send `request` and read to the end of the connection: (status, headers by lower-case name, body)."""
    with closing(await RawClient.connect_tcp(port)) as client:
        for piece in pieces or [request]:
            await client.send(piece)
        return await answer_of(client)


async def answer_of(client):
    head = await client.read_head()
    while await client.receive():
        pass
    status_line, *lines = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status_line.split()[1]), headers, client.data


def get(path="/", method="GET", version="1.1", **headers):
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", *lines, "", ""]).encode()


def subscribed(hub, channel, count=1):
    return until(lambda: hub.count_subscribers(channel) == count)


# The opening handshake.


def test_the_accept_header_is_what_rfc_6455_computes_for_its_own_example(run):
    async def scenario():
        async with serve(Hub()) as server:
            with closing(await RawClient.connect_tcp(server.port)) as client:
                await client.send(handshake(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ=="))
                lines = (await client.read_head()).lower().split("\r\n")
                assert lines[0].startswith("http/1.1 101 ")
                assert "upgrade: websocket" in lines
                assert "connection: upgrade" in lines
                assert "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in lines

    run(scenario())


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
        pytest.param(handshake("/prices", Sec_WebSocket_Extensions="permessage-deflate"), id="extension offered"),
        pytest.param(handshake("/prices", Sec_WebSocket_Protocol="chat"), id="subprotocol offered"),
        pytest.param(handshake("/prices", Cookie="x" * 8000), id="long head below the limit"),
        pytest.param(handshake("/prices?token=abc"), id="query"),
        pytest.param(handshake("/prices/"), id="slash at the end"),
        pytest.param(handshake("/%70rices"), id="percent-encoded"),
        pytest.param(handshake("http://127.0.0.1/prices"), id="absolute form"),
    ],
)
def test_a_handshake_as_clients_and_proxies_write_it_is_accepted(run, request_bytes):
    async def scenario():
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

    run(scenario())


def test_a_handshake_may_arrive_byte_by_byte(run):
    async def scenario():
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

    run(scenario())


@pytest.mark.parametrize("is_async", [False, True], ids=["no hook", "async authorize"])
def test_frames_sent_together_with_the_handshake_are_not_lost(run, is_async):
    async def scenario():
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

    run(scenario())


def test_the_websockets_library_talks_to_it(run):
    async def scenario():
        hub = Hub()
        hub.on_message(lambda client, message: hub.publish(client.channel, message))
        async with serve(hub) as server:
            async with websockets.connect(f"ws://127.0.0.1:{server.port}/prices") as client:
                for message in ("text ü", b"\x00binary", "", b"", "x" * 200, b"y" * 70_000):
                    await client.send(message)
                    assert await client.recv() == message
                await client.send(["in ", "frag", "ments"])
                assert await client.recv() == "in fragments"
                await (await client.ping(b"alive"))

    run(scenario())


# Refusals.


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
        pytest.param(handshake(Upgrade="h2c"), 400, id="upgrade to something else"),
        pytest.param(handshake(Connection="close"), 400, id="connection lacks upgrade"),
        pytest.param(handshake(Connection=None), 400, id="no connection header"),
        pytest.param(handshake(Connection="notupgrade"), 400, id="upgrade as part of a word"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, id="TLS on the plain port"),
        pytest.param(b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, id="malformed header"),
        pytest.param(b"BREW / HTTP/1.1\r\n\r\n", 400, id="unknown method"),
        pytest.param(b"\r\n\r\n\r\n\r\n", 400, id="no request line"),
        pytest.param(handshake("/%ff"), 400, id="path is not UTF-8"),
        pytest.param(handshake("/a%00b"), 400, id="path with a control character"),
        pytest.param(handshake("/" + "x" * 256), 400, id="channel name too long"),
        pytest.param(handshake("/" + "%C3%BC" * 128), 400, id="channel name too long in bytes"),
        pytest.param(handshake().replace(b"GET", b"POST"), 405, id="POST with upgrade"),
        pytest.param(get(method="POST", Content_Length="0"), 405, id="POST"),
        pytest.param(get(method="DELETE"), 405, id="DELETE"),
        pytest.param(handshake(Sec_WebSocket_Version="8"), 426, id="old version"),
        pytest.param(handshake(Sec_WebSocket_Version=None), 426, id="no version"),
        pytest.param(handshake(Cookie="x" * 17_000), 431, id="big head"),
        pytest.param(b"GET / HTTP/1.1\r\nCookie: " + b"x" * 17_000, 431, id="big head without an end"),
    ],
)
def test_a_wrong_handshake_is_answered_with_its_status_and_hurts_nobody(run, request_bytes, status):
    async def scenario():
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

    run(scenario())


def test_405_says_what_is_allowed(run):
    async def scenario():
        async with serve(Hub()) as server:
            _, headers, _ = await ask(server.port, get(method="PUT"))
            assert headers["allow"] == "GET, HEAD"

    run(scenario())


def test_426_names_the_protocol_to_upgrade_to(run):
    async def scenario():
        async with serve(Hub()) as server:  # RFC 9110 section 15.5.22: the response MUST have an Upgrade header
            for request in (handshake(Sec_WebSocket_Version="8"), get()):
                status, headers, _ = await ask(server.port, request)
                assert status == 426
                assert headers.get("upgrade", "").lower() == "websocket"

    run(scenario())


@pytest.mark.parametrize("length", [255, 256])
def test_a_channel_name_may_have_255_bytes(run, length):
    async def scenario():
        hub = Hub()
        async with serve(hub) as server:
            with closing(await RawClient.connect_tcp(server.port)) as client:
                await client.send(handshake("/" + "x" * length))
                assert ("101" in (await client.read_head()).split("\r\n")[0]) == (length == 255)

    run(scenario())


def test_the_head_may_have_exactly_max_head_bytes(run):
    async def scenario():
        head_bytes = len(handshake(Cookie="")) - 4  # without the blank line that ends it
        async with serve(Hub(), max_head_bytes=head_bytes + 100) as server:
            with closing(await RawClient.connect(server.port, Cookie="x" * 100)):
                pass
            status, _, _ = await ask(server.port, handshake(Cookie="x" * 101))
            assert status == 431

    run(scenario())


@pytest.mark.parametrize("start", [b"", handshake()[:-2]], ids=["nothing sent", "never ended"])
def test_a_handshake_that_never_ends_is_answered_with_408(run, start):
    async def scenario():
        async with serve(Hub(), handshake_seconds=0.05) as server:
            with closing(await RawClient.connect_tcp(server.port)) as client:
                await client.send(start)
                status, _, _ = await answer_of(client)
                assert status == 408

    run(scenario())


def test_a_handshake_that_ended_is_not_cut_off_by_the_deadline(run):
    async def scenario():
        hub = Hub()
        async with serve(hub, handshake_seconds=0.05) as server:
            with closing(await RawClient.connect(server.port)) as client:
                with closing(await RawClient.connect_tcp(server.port)) as late:  # entered later, so it is overdue later
                    assert (await answer_of(late))[0] == 408
                hub.publish("default", "still here")
                assert await client.read_payloads(1) == [b"still here"]

    run(scenario())


@pytest.mark.parametrize("vanish", [RawClient.close, RawClient.reset], ids=["fin", "rst"])
def test_a_client_that_vanishes_in_its_handshake_is_no_news(run, vanish, caplog):
    async def scenario():
        hub = Hub()
        async with serve(hub, handshake_seconds=60) as server:
            vanishing = await RawClient.connect_tcp(server.port)
            await vanishing.send(handshake()[:40])
            await until(lambda: len(server.doors) == 1)
            vanish(vanishing)
            await until(lambda: not server.doors)
            with closing(await RawClient.connect(server.port)) as client:
                hub.publish("default", "hello")
                assert await client.read_payloads(1) == [b"hello"]
            assert hub.stats()["clients"] <= 1

    run(scenario())
    assert caplog.records == []


def test_half_a_handshake_and_the_end_of_the_stream_closes_the_connection(run):
    async def scenario():
        async with serve(Hub(), handshake_seconds=60) as server:
            with closing(await RawClient.connect_tcp(server.port)) as client:
                await client.send(handshake()[:40])
                client.sock.shutdown(socket.SHUT_WR)
                assert await client.receive() is False

    run(scenario())


# The authorize hook.


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_what_authorize_returns_is_the_identity(run, is_async):
    async def scenario():
        hub = Hub()
        requests = []

        def decide(request):
            requests.append(request)
            return {"user": request.headers["x-user"]}

        async def decide_later(request):
            await asyncio.sleep(0)
            return decide(request)

        hub.authorize(decide_later if is_async else decide)
        connected = asyncio.get_running_loop().create_future()
        hub.on_connect(connected.set_result)
        async with serve(hub) as server:
            with closing(await RawClient.connect(server.port, "/%C3%BCber?token=%41", X_User="ada")) as raw:
                client = await connected
                assert client.identity == {"user": "ada"}
                assert client.channel == "über"
                assert client.remote_address == raw.sock.getsockname()
                (request,) = requests
                assert request.path == "/über"
                assert request.query == "token=%41"
                assert request.channel == "über"
                assert request.remote_address == raw.sock.getsockname()
                assert request.headers["upgrade"] == "websocket"

    run(scenario())


def test_header_lines_of_the_same_name_reach_authorize_joined(run):
    async def scenario():
        hub = Hub()
        seen = []
        hub.authorize(lambda request: seen.append(request.headers["x-role"]))
        async with serve(hub) as server:
            with closing(await RawClient.connect_tcp(server.port)) as client:
                await client.send(handshake(X_Role="a").replace(b"X-Role: a", b"X-Role: a\r\nx-role: b"))
                assert (await client.read_head()).startswith("HTTP/1.1 101 ")
        assert seen == ["a, b"]

    run(scenario())


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("rejection", "status", "body"),
    [(Reject(), 403, b"Forbidden\n"), (Reject(401, "who are you?"), 401, b"who are you?\n"), (Reject(503), 503, None)],
)
def test_reject_answers_with_its_status_and_reason(run, is_async, rejection, status, body, caplog):
    async def scenario():
        hub = Hub()

        def refuse(request):
            raise rejection

        async def refuse_later(request):
            await asyncio.sleep(0)
            raise rejection

        hub.authorize(refuse_later if is_async else refuse)
        async with serve(hub) as server:
            answered, _, answered_body = await ask(server.port, handshake())
            assert answered == status
            assert body is None or answered_body == body
            assert hub.stats()["clients"] == 0

    run(scenario())
    assert caplog.records == []


@pytest.mark.parametrize("status", [200, 399, 600])
def test_reject_takes_an_error_status_only(status):
    with pytest.raises(ValueError, match=str(status)):
        Reject(status)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_authorize_hook_that_fails_is_answered_with_500_and_logged(run, is_async, caplog):
    async def scenario():
        hub = Hub()

        def fail(request):
            raise LookupError("the user database is down")

        async def fail_later(request):
            await asyncio.sleep(0)
            fail(request)

        hub.authorize(fail_later if is_async else fail)
        async with serve(hub) as server:
            status, _, body = await ask(server.port, handshake())
            assert status == 500
            assert b"database" not in body

    run(scenario())
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert isinstance(record.exc_info[1], LookupError)


def test_an_authorize_hook_that_never_ends_is_answered_with_503_and_cancelled(run):
    async def scenario():
        hub = Hub()
        cancelled = asyncio.Event()

        @hub.authorize
        async def wait_for_ever(request):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with serve(hub, handshake_seconds=0.05) as server:
            status, _, _ = await ask(server.port, handshake())
            assert status == 503
            await cancelled.wait()
            assert hub.stats()["clients"] == 0

    run(scenario())


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset], ids=["fin", "rst"])
def test_the_hook_of_a_client_that_leaves_is_cancelled(run, leave, caplog):
    async def scenario():
        hub = Hub()
        entered, cancelled = asyncio.Event(), asyncio.Event()

        @hub.authorize
        async def wait_for_ever(request):
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with serve(hub, handshake_seconds=3) as server:
            client = await RawClient.connect_tcp(server.port)
            await client.send(handshake())
            await entered.wait()
            leave(client)
            await cancelled.wait()
            # Not by the deadline, which answers first.
            assert server.responses == {}

    run(scenario())
    assert caplog.records == []


def test_what_a_client_sends_while_the_hook_decides_is_bounded(run):
    async def scenario():
        hub = Hub()
        entered = asyncio.Event()

        @hub.authorize
        async def wait_for_ever(request):
            entered.set()
            await asyncio.Event().wait()

        async with serve(hub) as server:
            with closing(await RawClient.connect_tcp(server.port)) as client:
                await client.send(handshake())
                await entered.wait()
                sent, blocked_turns = 0, 0
                while blocked_turns < 100:  # a server that reads takes some in each turn
                    try:
                        sent += client.sock.send(bytes(65536))
                        blocked_turns = 0
                    except BlockingIOError:
                        blocked_turns += 1
                        await asyncio.sleep(0)
                    assert sent < 64 * 1024 * 1024

    run(scenario())


def test_a_server_that_closes_cancels_the_hooks_at_work(run):
    async def scenario():
        hub = Hub()
        entered, cancelled = asyncio.Event(), asyncio.Event()

        @hub.authorize
        async def wait_for_ever(request):
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        server = await serve(hub)
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(handshake())
            await entered.wait()
            await server.close()
            await cancelled.wait()
            assert await client.receive() is False

    run(scenario())


def test_a_second_authorize_hook_is_refused():
    hub = Hub()
    hub.authorize(lambda request: None)
    with pytest.raises(ValueError, match="already"):
        hub.authorize(lambda request: None)


# Plain HTTP.


def test_with_the_page_on_a_browser_gets_html(run):
    async def scenario():
        async with serve(Hub(), page=True) as server:
            for path in ("/", "/prices"):
                status, headers, body = await ask(server.port, get(path))
                assert status == 200
                assert headers["content-type"].startswith("text/html")
                assert int(headers["content-length"]) == len(body)
                assert b"<html" in body.lower()
            assert (await ask(server.port, get("/favicon.ico")))[0] == 404
            with closing(await RawClient.connect(server.port)):
                pass

    run(scenario())


def test_with_the_page_off_a_plain_get_is_answered_with_426(run):
    async def scenario():
        async with serve(Hub()) as server:
            for path in ("/", "/prices", "/?listeners"):
                assert (await ask(server.port, get(path)))[0] == 426

    run(scenario())


@pytest.mark.parametrize("page", [False, True], ids=["page off", "page on"])
def test_head_is_answered_as_get_without_the_body(run, page):
    async def scenario():
        async with serve(Hub(), page=page) as server:
            status, headers, body = await ask(server.port, get())
            head_status, head_headers, head_body = await ask(server.port, get(method="HEAD"))
            assert head_status == status
            assert head_headers == headers
            assert body
            assert head_body == b""

    run(scenario())


def test_a_refused_head_has_no_body_either(run):
    async def scenario():
        async with serve(Hub(), page=True) as server:
            status, _, body = await ask(server.port, get("/%ff", method="HEAD"))
            assert status == 400
            assert body == b""

    run(scenario())


def test_listeners_tells_how_many_are_subscribed_to_the_channel_of_the_path(run):
    async def scenario():
        hub = Hub()

        async def listeners(path):
            status, headers, body = await ask(server.port, get(path))
            assert status == 200
            assert headers["content-type"].startswith("application/json")
            return json.loads(body)

        async with serve(hub, page=True) as server:
            assert await listeners("/prices?listeners") == {"channel": "prices", "listeners": 0}
            assert hub.channels() == []  # asking makes no channel
            with closing(await RawClient.connect(server.port, "/prices")):
                with closing(await RawClient.connect(server.port, "/prices")):
                    await subscribed(hub, "prices", 2)
                    assert await listeners("/prices?listeners") == {"channel": "prices", "listeners": 2}
                    assert await listeners("/?listeners") == {"channel": "default", "listeners": 0}
            await subscribed(hub, "prices", 0)
            assert await listeners("/prices?listeners") == {"channel": "prices", "listeners": 0}

    run(scenario())


def test_a_request_pipelined_behind_an_answered_one_is_ignored(run):
    async def scenario():
        hub = Hub()
        async with serve(hub, page=True) as server:
            with closing(await RawClient.connect_tcp(server.port)) as client:
                await client.send(get("/?listeners") + handshake())
                _, headers, body = await answer_of(client)
                assert len(body) == int(headers["content-length"])
                assert hub.stats()["clients"] == 0

    run(scenario())


# The path names the channel.


@pytest.mark.parametrize(
    ("path", "channel"),
    [
        ("/", "default"),
        ("//", "default"),
        ("/default", "default"),
        ("/prices", "prices"),
        ("/prices/", "prices"),
        ("/eu/prices", "eu/prices"),
        ("/eu%2Fprices", "eu/prices"),
        ("/a%20b", "a b"),
        ("/a+b", "a+b"),
        ("/%E2%82%AC?x=%ff", "€"),
        ("/Prices", "Prices"),
    ],
)
def test_the_path_names_the_channel(run, path, channel):
    async def scenario():
        hub = Hub()
        async with serve(hub) as server:
            with closing(await RawClient.connect(server.port, path)) as client:
                await subscribed(hub, channel)
                (connected,) = hub.clients()
                assert connected.channel == channel
                assert connected.channels == (channel,)
                hub.publish(channel, "hello")
                assert await client.read_payloads(1) == [b"hello"]

    run(scenario())


def test_without_subscribe_path_a_client_is_subscribed_to_nothing(run):
    async def scenario():
        hub = Hub()
        hub.on_connect(lambda client: client.send("welcome"))
        async with serve(hub, subscribe_path=False) as server:
            with closing(await RawClient.connect(server.port, "/prices")) as client:
                assert await client.read_payloads(1) == [b"welcome"]
                (connected,) = hub.clients()
                assert connected.channel == "prices"
                assert connected.channels == ()
                assert hub.count_subscribers("prices") == 0

    run(scenario())


# A server's life.


def test_a_server_is_a_context_manager_that_closes_at_the_end(run):
    async def scenario():
        hub = Hub()
        async with serve(hub, "127.0.0.1", 0) as server:
            port = server.port
            assert port > 0
            assert [listener.getsockname() for listener in server.sockets] == [("127.0.0.1", port)]
            with closing(await RawClient.connect(port)) as client:
                await subscribed(hub, "default")
                await client.send_frame(CLOSE, b"\x03\xe8")
                assert await client.read_close() == (1000, "")
        with socket.socket() as sock, pytest.raises(ConnectionRefusedError):
            sock.connect(("127.0.0.1", port))
        await server.wait_closed()
        await server.close()  # again: nothing

    run(scenario())


def test_a_server_may_be_awaited_and_closed_by_hand(run):
    async def scenario():
        server = await serve(Hub())
        with closing(await RawClient.connect(server.port)) as client:
            closing_server = asyncio.create_task(server.close())
            waiting = asyncio.create_task(server.wait_closed())
            code, _ = await read_and_answer_close(client)
            assert code == 1001
            await closing_server
            await waiting
        assert server.sockets == ()

    run(scenario())


async def read_and_answer_close(client):
    """Read up to the CLOSE, answer it, and read to the end, where nothing may follow."""
    while True:
        (frame,) = await client.read_frames(1) or [None]
        if frame is None:
            return None, ""
        if frame.opcode == CLOSE:
            break
    with contextlib.suppress(ConnectionError):
        await client.send_frame(CLOSE, frame.payload[:2])
    assert await client.read_to_end() == []
    return int.from_bytes(frame.payload[:2], "big"), frame.payload[2:].decode()


def test_serve_forever_closes_the_server_when_it_is_cancelled(run):
    async def scenario():
        server = await serve(Hub())
        serving = asyncio.create_task(server.serve_forever())
        with closing(await RawClient.connect(server.port)) as client:
            serving.cancel()
            assert (await read_and_answer_close(client))[0] == 1001
            with pytest.raises(asyncio.CancelledError):
                await serving
        await server.wait_closed()

    run(scenario())


def test_close_tells_every_client_1001_and_waits_for_them(run):
    async def scenario():
        hub = Hub(close_seconds=20)
        ended = []
        hub.on_disconnect(lambda client, disconnect: ended.append(disconnect))
        server = await serve(hub)
        async with contextlib.AsyncExitStack() as stack:
            clients = [stack.enter_context(closing(await RawClient.connect(server.port, f"/{n}"))) for n in range(10)]
            await until(lambda: hub.stats()["clients"] == 10)
            closing_server = asyncio.create_task(server.close())
            for client in clients[1:]:
                assert await read_and_answer_close(client) == (1001, "going away")
            assert not closing_server.done()  # one has not answered yet
            assert await read_and_answer_close(clients[0]) == (1001, "going away")
            await closing_server
        assert len(ended) == 10
        assert set(ended) == {(1001, "going away", "server", "going_away")}
        assert hub.stats()["clients"] == 0
        assert hub.stats()["disconnects"] == {"going_away": 10}

    run(scenario())


def test_close_takes_a_code_and_a_reason(run):
    async def scenario():
        server = await serve(Hub())
        with closing(await RawClient.connect(server.port)) as client:
            closing_server = asyncio.create_task(server.close(code=1012, reason="update"))
            assert await read_and_answer_close(client) == (1012, "update")
            await closing_server

    run(scenario())


def test_close_aborts_who_does_not_answer_within_close_seconds(run):
    async def scenario():
        hub = Hub(close_seconds=0.05)
        async with contextlib.AsyncExitStack() as stack:
            async with serve(hub) as server:
                silent = stack.enter_context(closing(await RawClient.connect(server.port)))
                unread = stack.enter_context(
                    closing(await RawClient.connect(server.port, "/big", receive_buffer_bytes=4096))
                )
                await until(lambda: hub.stats()["clients"] == 2)
                for _ in range(8):
                    hub.publish("big", bytes(100_000))
                await until(lambda: any(client.is_writing_paused for client in hub.clients()))
            assert hub.stats()["clients"] == 0
            assert await silent.read_close() == (1001, "going away")
            assert [frame.opcode for frame in await unread.read_to_end() if frame.opcode != BINARY] == []

    run(scenario())


def test_a_client_that_only_connects_does_not_keep_a_server_open(run):
    async def scenario():
        hub = Hub(close_seconds=60)
        server = await serve(hub, handshake_seconds=60)
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(b"GET / HTTP/1.1\r\n")
            await until(lambda: len(server.doors) == 1)
            await server.close()
            assert await client.receive() is False

    run(scenario())


def test_a_client_that_has_just_connected_does_not_outlive_its_server(run):
    async def scenario():
        for turns in range(8):  # however far its way in was
            server = await serve(Hub(close_seconds=0.05))
            with closing(await RawClient.connect_tcp(server.port)) as client:
                await client.send(handshake())
                for _ in range(turns):
                    await asyncio.sleep(0)
                await server.close()
                while await client.receive():
                    pass

    run(scenario())


def test_a_port_in_use_is_an_oserror_and_leaves_nothing_bound(run):
    async def scenario():
        async with serve(Hub()) as server:
            with pytest.raises(OSError) as caught:  # noqa: PT011  (errno says which)
                await serve(Hub(), "127.0.0.1", server.port)
            assert caught.value.errno == errno.EADDRINUSE
            with closing(await RawClient.connect(server.port)):
                pass

    run(scenario())


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_it_listens_on_ipv6(run):
    async def scenario():
        hub = Hub()
        async with serve(hub, "::1") as server:
            async with websockets.connect(f"ws://[::1]:{server.port}/prices") as client:
                hub.publish("prices", "hello")
                assert await client.recv() == "hello"
                (connected,) = hub.clients()
                assert connected.remote_address[0] == "::1"

    run(scenario())


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_without_a_host_it_listens_on_the_same_port_of_every_address(run):
    async def scenario():
        hub = Hub()
        async with serve(hub, None) as server:
            assert {listener.family for listener in server.sockets} == {socket.AF_INET, socket.AF_INET6}
            assert {listener.getsockname()[1] for listener in server.sockets} == {server.port}
            async with websockets.connect(f"ws://[::1]:{server.port}/") as one:
                async with websockets.connect(f"ws://127.0.0.1:{server.port}/") as other:
                    hub.publish("default", "hello")
                    assert [await one.recv(), await other.recv()] == ["hello", "hello"]

    run(scenario())


def test_two_servers_share_a_hub_and_closing_one_leaves_the_other_alone(run):
    async def scenario():
        hub = Hub()
        first, second = await serve(hub), await serve(hub)
        with closing(await RawClient.connect(first.port, "/prices")) as leaving:
            with closing(await RawClient.connect(second.port, "/prices")) as staying:
                hub.publish("prices", "to both")
                assert await leaving.read_payloads(1) == await staying.read_payloads(1) == [b"to both"]
                closing_first = asyncio.create_task(first.close())
                assert (await read_and_answer_close(leaving))[0] == 1001
                await closing_first
                hub.publish("prices", "to one")
                assert await staying.read_payloads(1) == [b"to one"]
                closing_second = asyncio.create_task(second.close())
                assert (await read_and_answer_close(staying))[0] == 1001
                await closing_second

    run(scenario())


def test_closing_one_server_leaves_the_handlers_of_the_others_clients_at_work(run):
    async def scenario():
        hub = Hub(close_seconds=0.05)
        at_work, go_on, handled = asyncio.Event(), asyncio.Event(), []

        @hub.on_message
        async def work(client, message):
            at_work.set()
            await go_on.wait()
            handled.append(message)

        first, second = await serve(hub), await serve(hub)
        with closing(await RawClient.connect(second.port)) as client:
            await client.send(client_frame(TEXT, b"one") + client_frame(TEXT, b"two"))
            await at_work.wait()
            await first.close()
            go_on.set()
            await client.send_frame(TEXT, b"three")
            await client.send_frame(PING, b"?")
            assert await client.read_frames(1) == [Frame(PONG, b"?")]
            await until(lambda: "three" in handled)
            assert handled == ["one", "two", "three"]
            closing_second = asyncio.create_task(second.close())
            assert (await read_and_answer_close(client))[0] == 1001
            await closing_second

    run(scenario())


def test_a_hub_belongs_to_one_running_loop_at_a_time():
    hub = Hub()

    async def serve_once():
        async with serve(hub) as server:
            with closing(await RawClient.connect(server.port)) as client:
                hub.publish("default", "hello")
                assert await client.read_payloads(1) == [b"hello"]
                closing_server = asyncio.create_task(server.close())
                assert (await read_and_answer_close(client))[0] == 1001
                await closing_server

    asyncio.run(serve_once())
    asyncio.run(serve_once())  # the first loop is closed: the hub may move on

    async def serve_in_two_loops():
        async with serve(hub):
            loop = asyncio.get_running_loop()
            other = asyncio.new_event_loop()
            with closing(other):
                with pytest.raises(RuntimeError, match="another event loop"):
                    await loop.run_in_executor(None, other.run_until_complete, serve_once())

    asyncio.run(serve_in_two_loops())


# File descriptors run out.


@contextlib.contextmanager
def descriptor_limit():
    """Lower the soft limit to a little more than is open; it is what it was at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = [int(name) for name in os.listdir("/dev/fd")]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(used) + 10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def use_up_descriptors():
    opened = []
    while True:
        try:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE
            return opened


def test_when_descriptors_run_out_accepting_pauses_with_one_warning_and_goes_on_later(run, caplog):
    def warnings():
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    async def scenario():
        hub = Hub()
        loop = asyncio.get_running_loop()
        async with serve(hub) as server:
            async with contextlib.AsyncExitStack() as stack:
                existing = stack.enter_context(closing(await RawClient.connect(server.port)))
                waiting = []
                for _ in range(3):
                    sock = stack.enter_context(socket.socket())
                    sock.setblocking(False)
                    waiting.append(RawClient(sock))
                stack.enter_context(descriptor_limit())
                spare = use_up_descriptors()
                stack.callback(lambda: [os.close(fd) for fd in spare])
                for client in waiting:
                    await loop.sock_connect(client.sock, ("127.0.0.1", server.port))
                    await client.send(handshake())
                await until(warnings)
                hub.publish("default", "while paused")
                assert await existing.read_payloads(1) == [b"while paused"]
                assert hub.stats()["clients"] == 1
                # One descriptor: one gets in, and the next try, for the second, meets the shortage again.
                os.close(spare.pop())
                assert (await waiting[0].read_head()).startswith("HTTP/1.1 101 ")
                hub.publish("default", "while paused again")
                assert await existing.read_payloads(1) == [b"while paused again"]
                assert hub.stats()["clients"] == 2
                while spare:
                    os.close(spare.pop())
                for client in waiting[1:]:
                    assert (await client.read_head()).startswith("HTTP/1.1 101 ")
                hub.publish("default", "to all")
                for client in (existing, *waiting[1:]):
                    assert await client.read_payloads(1) == [b"to all"]
                assert await waiting[0].read_payloads(2) == [b"while paused again", b"to all"]
                assert len([text for text in warnings() if "accepting pauses" in text]) == 1

    with caplog.at_level(logging.INFO):
        run(scenario())


# Bad input. The server is given max_message_bytes=1000 and max_fragments=4.

PROTOCOL_ERROR = (1002, "protocol_error")
INVALID_TEXT = (1007, "invalid_text")
TOO_BIG = (1009, "message_too_big")
TOO_MANY = (1008, "too_many_fragments")


def close_payload(code, reason=b""):
    return code.to_bytes(2, "big") + reason


def fragments(opcode, *payloads):
    """A message cut into frames; the last one has FIN."""
    frames = [client_frame(opcode if n == 0 else 0, payload, fin=False) for n, payload in enumerate(payloads[:-1])]
    return b"".join(frames) + client_frame(0, payloads[-1])


BAD_INPUT = {
    "unmasked text": (encode_frame(TEXT, b"x"), PROTOCOL_ERROR),
    "unmasked ping": (encode_frame(PING, b""), PROTOCOL_ERROR),
    "unmasked close": (encode_frame(CLOSE, b""), PROTOCOL_ERROR),
    **{f"reserved bit {rsv}": (client_frame(TEXT, b"x", rsv=rsv), PROTOCOL_ERROR) for rsv in (1, 2, 4, 7)},
    "reserved bit on a ping": (client_frame(PING, b"", rsv=4), PROTOCOL_ERROR),
    "reserved bit on a close": (client_frame(CLOSE, close_payload(1000), rsv=4), PROTOCOL_ERROR),
    "reserved bit on a continuation": (
        client_frame(TEXT, b"a", fin=False) + client_frame(0, b"b", rsv=4),
        PROTOCOL_ERROR,
    ),
    **{f"opcode {n:#x}": (client_frame(n, b""), PROTOCOL_ERROR) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented ping": (client_frame(PING, b"", fin=False), PROTOCOL_ERROR),
    "fragmented pong": (client_frame(PONG, b"", fin=False), PROTOCOL_ERROR),
    "fragmented close": (client_frame(CLOSE, close_payload(1000), fin=False), PROTOCOL_ERROR),
    "long ping": (client_frame(PING, bytes(126)), PROTOCOL_ERROR),
    "long pong": (client_frame(PONG, bytes(126)), PROTOCOL_ERROR),
    "long close": (client_frame(CLOSE, close_payload(1000, b"x" * 124)), PROTOCOL_ERROR),
    "continuation without a start": (client_frame(0, b"x"), PROTOCOL_ERROR),
    "continuation after the end": (fragments(TEXT, b"a", b"b") + client_frame(0, b"c"), PROTOCOL_ERROR),
    "text inside fragments": (client_frame(TEXT, b"a", fin=False) + client_frame(TEXT, b"b"), PROTOCOL_ERROR),
    "binary inside fragments": (client_frame(TEXT, b"a", fin=False) + client_frame(BINARY, b"b"), PROTOCOL_ERROR),
    **{
        f"close code {code}": (client_frame(CLOSE, close_payload(code)), PROTOCOL_ERROR)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2999, 5000, 65535)
    },
    "close of one byte": (client_frame(CLOSE, b"\x03"), PROTOCOL_ERROR),
    "close reason is not UTF-8": (client_frame(CLOSE, close_payload(1000, b"\xff")), INVALID_TEXT),
    "text is not UTF-8": (client_frame(TEXT, b"abc\xff"), INVALID_TEXT),
    "text ends inside a character": (client_frame(TEXT, b"\xe2\x82"), INVALID_TEXT),
    "text has a surrogate": (client_frame(TEXT, b"\xed\xa0\x80"), INVALID_TEXT),
    "text is overlong": (client_frame(TEXT, b"\xc0\xaf"), INVALID_TEXT),
    "text above U+10FFFF": (client_frame(TEXT, b"\xf4\x90\x80\x80"), INVALID_TEXT),
    "fragments are not UTF-8": (fragments(TEXT, b"ok", b"\xe2\x82", b"\xe2"), INVALID_TEXT),
    "message too big, announced only": (client_frame(BINARY, bytes(1001))[:8], TOO_BIG),
    "message far too big, announced only": (client_frame(BINARY, bytes(70_000))[:14], TOO_BIG),
    "message too big": (client_frame(TEXT, b"x" * 1001), TOO_BIG),
    "fragments too big": (fragments(BINARY, bytes(600), bytes(401)), TOO_BIG),
    "fragments too big before the end": (
        client_frame(BINARY, bytes(600), fin=False) + client_frame(0, bytes(600), fin=False),
        TOO_BIG,
    ),
    "too many fragments": (fragments(TEXT, b"a", b"b", b"c", b"d", b"e"), TOO_MANY),
    "too many empty fragments": (fragments(TEXT, *[b""] * 5), TOO_MANY),
}


@pytest.mark.parametrize(("sent", "expected"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_closes_that_client_with_its_code_and_nobody_else(run, sent, expected, caplog):
    async def scenario():
        hub = Hub(max_message_bytes=1000, max_fragments=4)
        received, ended = [], []
        hub.on_message(lambda client, message: received.append(message))
        hub.on_disconnect(lambda client, disconnect: ended.append(disconnect))
        published = []

        def publish():
            published.append(b"%d" % len(published))
            hub.publish("prices", published[-1])

        async with serve(hub) as server:
            async with contextlib.AsyncExitStack() as stack:
                bad = stack.enter_context(closing(await RawClient.connect(server.port, "/prices")))
                healthy = stack.enter_context(closing(await RawClient.connect(server.port, "/prices")))
                await subscribed(hub, "prices", 2)
                publish()
                await bad.send(sent)
                while hub.count_subscribers("prices") == 2:
                    publish()
                    await asyncio.sleep(0)
                for _ in range(3):
                    publish()
                    await asyncio.sleep(0)
                got = []
                while not got or got[-1].opcode != CLOSE:
                    frames = await bad.read_frames(1)
                    assert frames, "the connection ended without a CLOSE"
                    got += frames
                publish()
                # What comes now is of no interest to it, and nothing may come of it.
                with contextlib.suppress(ConnectionError):
                    await bad.send(client_frame(TEXT, b"late") + client_frame(PING, b"late"))
                    await bad.send_frame(CLOSE, got[-1].payload[:2])
                assert await bad.read_to_end() == []
                await until(lambda: ended)
                publish()

                code, cause = expected
                assert int.from_bytes(got[-1].payload[:2], "big") == code
                got[-1].payload[2:].decode()
                assert [frame.payload for frame in got[:-1]] == published[: len(got) - 1]
                assert await healthy.read_payloads(len(published)) == published
                assert "late" not in received
                assert [(end.code, end.by, end.cause) for end in ended] == [(code, "server", cause)]
                assert hub.stats()["disconnects"] == {cause: 1}

    run(scenario())
    assert caplog.records == []


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        pytest.param(client_frame(BINARY, bytes(1000)), bytes(1000), id="exactly max_message_bytes"),
        pytest.param(fragments(BINARY, bytes(600), bytes(400)), bytes(1000), id="exactly that in fragments"),
        pytest.param(fragments(TEXT, b"a", b"b", b"c", b"d"), "abcd", id="exactly max_fragments"),
        pytest.param(fragments(TEXT, b"\xe2", b"\x82", b"\xac"), "€", id="a character across fragments"),
        pytest.param(fragments(TEXT, b"", b"", b""), "", id="an empty message in fragments"),
        pytest.param(
            client_frame(TEXT, b"a", fin=False)
            + client_frame(PING, b"")
            + client_frame(PONG, b"")
            + client_frame(0, b"b"),
            "ab",
            id="control frames between fragments",
        ),
    ],
)
def test_what_is_just_allowed_arrives(run, sent, message):
    async def scenario():
        hub = Hub(max_message_bytes=1000, max_fragments=4)
        received = []
        hub.on_message(lambda client, message: received.append(message))
        async with serve(hub) as server:
            with closing(await RawClient.connect(server.port)) as client:
                await client.send(sent * 2)
                await until(lambda: len(received) == 2)
                assert received == [message, message]
                assert hub.stats()["received_messages"] == 2
                assert hub.stats()["disconnects"] == {}

    run(scenario())


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
def test_a_close_code_that_may_be_sent_is_echoed(run, code):
    async def scenario():
        async with serve(Hub()) as server:
            with closing(await RawClient.connect(server.port)) as client:
                await client.send_frame(CLOSE, close_payload(code, b"x" * 123))
                assert await client.read_close() == (code, "")

    run(scenario())


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(125))], ids=["empty", "one byte", "125 bytes"])
def test_a_ping_is_answered_with_its_payload(run, payload):
    async def scenario():
        async with serve(Hub()) as server:
            with closing(await RawClient.connect(server.port)) as client:
                await client.send_frame(PING, payload)
                assert await client.read_frames(1) == [Frame(PONG, payload)]

    run(scenario())


@pytest.mark.parametrize("cut", [1, 3, 100], ids=["in the header", "in the mask", "in the payload"])
@pytest.mark.parametrize("vanish", [RawClient.close, RawClient.reset], ids=["fin", "rst"])
def test_a_client_that_vanishes_in_a_frame_is_forgotten(run, cut, vanish, caplog):
    async def scenario():
        hub = Hub()
        ended = []
        hub.on_disconnect(lambda client, disconnect: ended.append(disconnect))
        async with serve(hub) as server:
            vanishing = await RawClient.connect(server.port)
            with closing(await RawClient.connect(server.port)) as healthy:
                await subscribed(hub, "default", 2)
                await vanishing.send(client_frame(BINARY, bytes(500))[:cut])
                vanish(vanishing)
                await until(lambda: ended)
                assert ended == [(1006, "", "network", "connection_lost")]
                assert hub.count_subscribers("default") == 1
                hub.publish("default", "hello")
                assert await healthy.read_payloads(1) == [b"hello"]

    run(scenario())
    assert caplog.records == []
