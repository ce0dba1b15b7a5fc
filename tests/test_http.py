"""Plain HTTP on the same port: the page, HEAD, and `?listeners`."""

import json
from contextlib import closing

import pytest
from raw_client import RawClient, answer_of, ask, get, handshake
from support import subscribed

from fastbcast import Hub, serve


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
