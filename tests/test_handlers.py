"""The application's handlers: who is called, and in which order."""

import asyncio
import functools
from contextlib import closing

import pytest
from raw_client import RawClient, handshake
from reference import BINARY, CLOSE, PING, PONG, TEXT, Frame, client_frame, close_payload
from support import KINDS, raw_connections, register, say_goodbye, until

from fastbcast import Disconnect, Hub, serve


@pytest.mark.parametrize("on_disconnect", KINDS)
@pytest.mark.parametrize("on_message", KINDS)
@pytest.mark.parametrize("on_connect", KINDS)
async def test_connect_comes_first_then_the_messages_in_order_then_disconnect(on_connect, on_message, on_disconnect):
    hub = Hub()
    events = []
    register(hub, "on_connect", lambda client: events.append("connect"), on_connect)
    register(hub, "on_message", lambda client, message: events.append(message), on_message)
    register(hub, "on_disconnect", lambda client, disconnect: events.append(disconnect), on_disconnect)
    async with raw_connections(hub, "/") as raw:
        await raw.send(b"".join(client_frame(TEXT, b"%d" % number) for number in range(20)))
        await raw.send_frame(BINARY, b"bytes")
        assert await say_goodbye(raw) == (1000, "")
        await until(lambda: events and isinstance(events[-1], Disconnect))
    messages = [*map(str, range(20)), b"bytes"]
    assert events == ["connect", *messages, (1000, "", "client", "client")]


async def test_an_async_handler_gets_a_clients_messages_one_after_the_other():
    hub = Hub()
    events = []

    @hub.on_message
    async def work(client, message):
        events.append(f"{message} begins")
        for _ in range(5):
            await asyncio.sleep(0)
        events.append(f"{message} ends")

    async with raw_connections(hub, "/") as raw:
        for number in range(10):
            await raw.send_frame(TEXT, b"%d" % number)
        await until(lambda: len(events) == 20)
    assert events == [f"{number} {what}" for number in range(10) for what in ("begins", "ends")]


async def test_a_client_whose_handler_waits_holds_up_no_other_client():
    hub = Hub()
    go_on, handled = asyncio.Event(), []

    @hub.on_message
    async def work(client, message):
        if message == "wait":
            await go_on.wait()
        handled.append(message)

    async with raw_connections(hub, "/", "/") as (slow, quick):
        await slow.send_frame(TEXT, b"wait")
        await slow.send_frame(TEXT, b"after it")
        await quick.send_frame(TEXT, b"quick")
        await until(lambda: handled)
        assert handled == ["quick"]
        go_on.set()
        await until(lambda: len(handled) == 3)
        assert handled == ["quick", "wait", "after it"]


async def test_a_client_whose_handler_waits_still_gets_what_is_published():
    hub = Hub(close_seconds=0.05)  # the handler never ends: closing the server cancels it
    at_work = asyncio.Event()

    @hub.on_message
    async def work(client, message):
        at_work.set()
        await asyncio.Event().wait()

    async with raw_connections(hub, "/") as raw:
        await raw.send_frame(TEXT, b"x")
        await at_work.wait()
        hub.publish("default", "hello")
        assert await raw.read_payloads(1) == [b"hello"]
        await raw.send_frame(PING, b"?")
        assert await raw.read_frames(1) == [Frame(PONG, b"?")]


async def test_handlers_see_the_client_as_it_is_then():
    hub = Hub()
    seen = []

    @hub.on_connect
    def connected(client):
        assert hub.count_subscribers("default") == 1  # subscribed before
        assert list(hub.clients()) == [client]
        seen.append((client.is_open, client.channels, client.disconnected))
        client.state["name"] = "ada"

    hub.on_message(lambda client, message: seen.append(client.state["name"]))

    @hub.on_disconnect
    def disconnected(client, disconnect):
        assert list(hub.clients()) == []
        assert hub.count_subscribers("default") == 0
        assert client.state == {"name": "ada"}
        seen.append((client.is_open, client.channels, client.disconnected))
        assert client.send("too late") is False
        client.close()

    async with raw_connections(hub, "/") as raw:
        await raw.send_frame(TEXT, b"who am I?")
        await say_goodbye(raw)
        await until(lambda: len(seen) == 3)
    assert seen == [(True, ("default",), None), "ada", (False, (), (1000, "", "client", "client"))]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_on_connect_sends_comes_before_all_else(kind):
    hub = Hub()
    register(hub, "on_connect", lambda client: client.send("welcome"), kind)

    @hub.on_message
    def publish(client, message):
        hub.publish("default", message)

    async with serve(hub) as server:
        with closing(await RawClient.connect_tcp(server.port)) as raw:
            await raw.send(handshake() + client_frame(TEXT, b"first"))
            await raw.read_head()
            assert await raw.read_payloads(2) == [b"welcome", b"first"]


async def test_on_connect_may_close_the_client():
    hub = Hub()
    received = []
    hub.on_connect(lambda client: client.close(4003, "not you"))
    hub.on_message(lambda client, message: received.append(message))
    async with serve(hub) as server:
        with closing(await RawClient.connect_tcp(server.port)) as raw:
            await raw.send(handshake() + client_frame(TEXT, b"early") + client_frame(CLOSE, close_payload(4003)))
            assert (await raw.read_head()).startswith("HTTP/1.1 101 ")
            assert await raw.read_close() == (4003, "not you")
    assert received == []


async def test_a_handler_may_be_any_callable():
    seen = []

    class Handler:
        async def __call__(self, client, message):
            await asyncio.sleep(0)
            seen.append(message)

    async def connected(name, client):
        await asyncio.sleep(0)
        seen.append(name)

    class Application:
        async def disconnected(self, client, disconnect):
            await asyncio.sleep(0)
            seen.append(disconnect.code)

    hub = Hub()
    hub.on_connect(functools.partial(connected, "partial"))
    hub.on_message(Handler())
    hub.on_disconnect(Application().disconnected)
    async with raw_connections(hub, "/") as raw:
        await raw.send_frame(TEXT, b"callable object")
        await say_goodbye(raw)
        await until(lambda: len(seen) == 3)
    assert seen == ["partial", "callable object", 1000]


def test_a_plain_handler_may_return_anything_also_behind_an_async_one(run, caplog):
    async def scenario():
        hub = Hub()
        go_on = asyncio.Event()

        @hub.on_connect
        async def connected(client):
            await go_on.wait()

        hub.on_message(lambda client, message: hub.publish(client.channel, message))  # returns a seq
        async with raw_connections(hub, "/") as raw:
            await raw.send(client_frame(TEXT, b"waits for on_connect") + client_frame(PING, b""))
            assert await raw.read_frames(1) == [Frame(PONG, b"")]
            go_on.set()
            assert await raw.read_frames(1) == [Frame(TEXT, b"waits for on_connect")]
            await raw.send_frame(TEXT, b"does not")
            assert await raw.read_frames(1) == [Frame(TEXT, b"does not")]

    run(scenario())
    assert caplog.records == []


async def test_a_plain_function_that_returns_a_coroutine_is_an_async_handler():
    hub = Hub()
    handled = []

    async def work(client, message):
        await asyncio.sleep(0)
        handled.append(message)

    hub.on_message(lambda client, message: work(client, message))
    async with raw_connections(hub, "/") as raw:
        for number in range(5):
            await raw.send_frame(TEXT, b"%d" % number)
        await raw.send_frame(PING, b"all read")
        assert await raw.read_frames(1) == [Frame(PONG, b"all read")]
        for _ in range(100):
            await asyncio.sleep(0)
        assert handled == ["0", "1", "2", "3", "4"]


async def test_without_handlers_a_client_may_send_what_it_likes():
    hub = Hub()
    async with raw_connections(hub, "/") as raw:
        for _ in range(100):
            await raw.send_frame(TEXT, b"nobody listens")
        assert await say_goodbye(raw) == (1000, "")
    assert hub.stats()["received_messages"] == 100


@pytest.mark.parametrize("event", ["on_connect", "on_message", "on_disconnect", "on_error"])
def test_an_event_has_one_handler(event):
    hub = Hub()

    def handler(*arguments):
        pass

    assert getattr(hub, event)(handler) is handler  # so that it works as a decorator
    with pytest.raises(ValueError, match=f"{event} has a handler already"):
        getattr(hub, event)(lambda *arguments: None)
    for not_callable in (None, "handler", 5):
        with pytest.raises(TypeError, match=f"{event} needs a function"):
            getattr(hub, event)(not_callable)
