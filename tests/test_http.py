"""Plain HTTP on the same port: the page, HEAD, `?listeners`, and that every answer arrives."""

import asyncio
import json
import socket
from contextlib import closing

import pytest
from raw_client import RawClient, answer_of, ask, get, handshake
from support import subscribed, until

from fastbcast import Hub, Reject, serve
from fastbcast.http._handshake import LINGER_BYTES


async def test_with_the_page_on_a_browser_gets_html():
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


async def test_with_the_page_off_a_plain_get_is_answered_with_426():
    async with serve(Hub()) as server:
        for path in ("/", "/prices", "/?listeners"):
            assert (await ask(server.port, get(path)))[0] == 426


@pytest.mark.parametrize("page", [False, True], ids=["page off", "page on"])
async def test_head_is_answered_as_get_without_the_body(page):
    async with serve(Hub(), page=page) as server:
        status, headers, body = await ask(server.port, get())
        head_status, head_headers, head_body = await ask(server.port, get(method="HEAD"))
        assert head_status == status
        assert head_headers == headers
        assert body
        assert head_body == b""


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(get("/%ff", method="HEAD"), id="path is not UTF-8"),
        pytest.param(get(method="HEAD", X="\0"), id="malformed header"),
    ],
)
async def test_a_refused_head_has_no_body_either(request_bytes):
    async with serve(Hub(), page=True) as server:
        status, _, body = await ask(server.port, request_bytes)
        assert status == 400
        assert body == b""


async def test_listeners_tells_how_many_are_subscribed_to_the_channel_of_the_path():
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


async def test_a_request_pipelined_behind_an_answered_one_is_ignored():
    hub = Hub()
    async with serve(hub, page=True) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(get("/?listeners") + handshake())
            _, headers, body = await answer_of(client)
            assert len(body) == int(headers["content-length"])
            assert hub.stats()["clients"] == 0


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_listeners_are_told_only_to_whom_authorize_lets_in(is_async, method):
    hub = Hub()

    def decide(request):
        assert request.channel == "prices"
        if request.headers.get("authorization") != "Bearer letmein":
            raise Reject(401)

    async def decide_later(request):
        await asyncio.sleep(0)
        decide(request)

    hub.authorize(decide_later if is_async else decide)
    async with serve(hub, page=True) as server:
        question = get("/prices?listeners", method)
        status, headers, body = await ask(server.port, question)
        assert status == 401
        assert headers["www-authenticate"] == "Bearer"
        assert b"listeners" not in body
        status, _, body = await ask(
            server.port, get("/prices?listeners", method, Authorization="Bearer letmein")
        )
        assert status == 200
        assert (b"listeners" in body) == (method == "GET")
        assert (await ask(server.port, get("/prices")))[0] == 200  # the page tells nothing
        assert server.stats()["refused"] == {"authorize": 1}


# An answer is not lost to a reset, which unread input at the time of the close would cause.


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
async def test_an_answer_arrives_though_a_body_is_still_being_sent(method):
    async with serve(Hub()) as server:
        body = bytes(LINGER_BYTES // 2)
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(get(method=method, Content_Length=len(body)))
            while not client.data:
                await client.receive()
            await client.send(body)
            status, headers, _ = await answer_of(client)
            assert status == (426 if method == "HEAD" else 405)
            assert headers["connection"].startswith("close")
            client.sock.shutdown(socket.SHUT_WR)  # would raise on a socket that was reset
            await until(lambda: not server.handshakes)


async def test_an_answered_client_that_goes_on_sending_is_cut_off(monkeypatch):
    monkeypatch.setattr("fastbcast.http.pending.LINGER_SECONDS", 60)

    async with serve(Hub()) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(get(method="POST", Content_Length=2**40))
            assert (await answer_of(client))[0] == 405
            with pytest.raises(ConnectionError):
                while True:
                    await client.send(bytes(65536))
            await until(lambda: not server.handshakes)


async def test_an_answered_client_that_does_not_close_is_cut_off(monkeypatch):
    monkeypatch.setattr("fastbcast.http.pending.LINGER_SECONDS", 0.05)

    async with serve(Hub()) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(get())
            assert (await answer_of(client))[0] == 426
            await until(lambda: not server.handshakes)


async def test_a_client_that_sends_fin_with_its_request_has_its_answer():
    async with serve(Hub(), page=True) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(get())
            client.sock.shutdown(socket.SHUT_WR)
            status, headers, body = await answer_of(client)
            assert (status, len(body)) == (200, int(headers["content-length"]))
