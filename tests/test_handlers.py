"""The application's handlers: order, the bounded inbox, failures, and what Disconnect tells."""

import asyncio
import contextlib
import functools
import logging
from contextlib import closing

import pytest
from raw_client import RawClient, handshake
from reference import BINARY, CLOSE, PING, PONG, TEXT, Frame, client_frame, encode_frame

from fastbcast import Disconnect, Hub, serve

MESSAGE_BYTES = 65536


async def until(condition):
    """Give the loop turns until `condition()` is true; the fixture `run` bounds it."""
    while not condition():
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def connections(hub, count=1, **options):
    """Serve `hub` and connect: gives a RawClient, or a list of them."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(hub))
        raws = [stack.enter_context(closing(await RawClient.connect(server.port, **options))) for _ in range(count)]
        yield raws[0] if count == 1 else raws


def close_payload(code, reason=""):
    return code.to_bytes(2, "big") + reason.encode()


async def say_goodbye(raw):
    await raw.send_frame(CLOSE, close_payload(1000))
    return await raw.read_close()


def register(hub, event, handler, kind):
    """Register `handler` as it is, or as a coroutine function that first lets the loop turn."""
    if kind == "sync":
        return getattr(hub, event)(handler)

    async def async_handler(*arguments):
        await asyncio.sleep(0)
        handler(*arguments)

    return getattr(hub, event)(async_handler)


KINDS = ("sync", "async")


# Who is called, and in which order.


@pytest.mark.parametrize("on_disconnect", KINDS)
@pytest.mark.parametrize("on_message", KINDS)
@pytest.mark.parametrize("on_connect", KINDS)
def test_connect_comes_first_then_the_messages_in_order_and_disconnect_last(run, on_connect, on_message, on_disconnect):
    async def scenario():
        hub = Hub()
        events = []
        register(hub, "on_connect", lambda client: events.append("connect"), on_connect)
        register(hub, "on_message", lambda client, message: events.append(message), on_message)
        register(hub, "on_disconnect", lambda client, disconnect: events.append(disconnect), on_disconnect)
        async with connections(hub) as raw:
            await raw.send(b"".join(client_frame(TEXT, b"%d" % number) for number in range(20)))
            await raw.send_frame(BINARY, b"bytes")
            assert await say_goodbye(raw) == (1000, "")
            await until(lambda: events and isinstance(events[-1], Disconnect))
        messages = [*map(str, range(20)), b"bytes"]
        assert events == ["connect", *messages, (1000, "", "client", "client")]

    run(scenario())


def test_an_async_handler_gets_a_clients_messages_one_after_the_other(run):
    async def scenario():
        hub = Hub()
        events = []

        @hub.on_message
        async def work(client, message):
            events.append(f"{message} begins")
            for _ in range(5):
                await asyncio.sleep(0)
            events.append(f"{message} ends")

        async with connections(hub) as raw:
            for number in range(10):
                await raw.send_frame(TEXT, b"%d" % number)
            await until(lambda: len(events) == 20)
        assert events == [f"{number} {what}" for number in range(10) for what in ("begins", "ends")]

    run(scenario())


def test_a_client_whose_handler_waits_holds_up_no_other_client(run):
    async def scenario():
        hub = Hub()
        go_on, handled = asyncio.Event(), []

        @hub.on_message
        async def work(client, message):
            if message == "wait":
                await go_on.wait()
            handled.append(message)

        async with connections(hub, 2) as (slow, quick):
            await slow.send_frame(TEXT, b"wait")
            await slow.send_frame(TEXT, b"after it")
            await quick.send_frame(TEXT, b"quick")
            await until(lambda: handled)
            assert handled == ["quick"]
            go_on.set()
            await until(lambda: len(handled) == 3)
            assert handled == ["quick", "wait", "after it"]

    run(scenario())


def test_a_client_whose_handler_waits_still_gets_what_is_published(run):
    async def scenario():
        hub = Hub(close_seconds=0.05)  # the handler never ends: closing the server cancels it
        at_work = asyncio.Event()

        @hub.on_message
        async def work(client, message):
            at_work.set()
            await asyncio.Event().wait()

        async with connections(hub) as raw:
            await raw.send_frame(TEXT, b"x")
            await at_work.wait()
            hub.publish("default", "hello")
            assert await raw.read_payloads(1) == [b"hello"]
            await raw.send_frame(PING, b"?")
            assert await raw.read_frames(1) == [Frame(PONG, b"?")]

    run(scenario())


def test_handlers_see_the_client_as_it_is_then(run):
    async def scenario():
        hub = Hub()
        seen = []

        @hub.on_connect
        def connected(client):
            assert hub.count_subscribers("default") == 1  # subscribed before
            assert list(hub.clients()) == [client]
            seen.append((client.is_open, client.channels, client.disconnect))
            client.state["name"] = "ada"

        hub.on_message(lambda client, message: seen.append(client.state["name"]))

        @hub.on_disconnect
        def disconnected(client, disconnect):
            assert list(hub.clients()) == []
            assert hub.count_subscribers("default") == 0
            assert client.state == {"name": "ada"}
            seen.append((client.is_open, client.channels, client.disconnect))
            assert client.send("too late") is False
            client.close()

        async with connections(hub) as raw:
            await raw.send_frame(TEXT, b"who am I?")
            await say_goodbye(raw)
            await until(lambda: len(seen) == 3)
        assert seen == [(True, ("default",), None), "ada", (False, (), (1000, "", "client", "client"))]

    run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_what_on_connect_sends_comes_before_all_else(run, kind):
    async def scenario():
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

    run(scenario())


def test_on_connect_may_close_the_client(run):
    async def scenario():
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

    run(scenario())


def test_a_handler_may_be_any_callable(run):
    async def scenario():
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
        async with connections(hub) as raw:
            await raw.send_frame(TEXT, b"callable object")
            await say_goodbye(raw)
            await until(lambda: len(seen) == 3)
        assert seen == ["partial", "callable object", 1000]

    run(scenario())


def test_a_plain_handler_may_return_anything_also_behind_an_async_one(run, caplog):
    async def scenario():
        hub = Hub()
        go_on = asyncio.Event()

        @hub.on_connect
        async def connected(client):
            await go_on.wait()

        hub.on_message(lambda client, message: hub.publish(client.channel, message))  # returns a seq
        async with connections(hub) as raw:
            await raw.send(client_frame(TEXT, b"waits for on_connect") + client_frame(PING, b""))
            assert await raw.read_frames(1) == [Frame(PONG, b"")]
            go_on.set()
            assert await raw.read_frames(1) == [Frame(TEXT, b"waits for on_connect")]
            await raw.send_frame(TEXT, b"does not")
            assert await raw.read_frames(1) == [Frame(TEXT, b"does not")]

    run(scenario())
    assert caplog.records == []


def test_a_plain_function_that_returns_a_coroutine_is_an_async_handler(run):
    async def scenario():
        hub = Hub()
        handled = []

        async def work(client, message):
            await asyncio.sleep(0)
            handled.append(message)

        hub.on_message(lambda client, message: work(client, message))
        async with connections(hub) as raw:
            for number in range(5):
                await raw.send_frame(TEXT, b"%d" % number)
            await raw.send_frame(PING, b"all read")
            assert await raw.read_frames(1) == [Frame(PONG, b"all read")]
            for _ in range(100):
                await asyncio.sleep(0)
            assert handled == ["0", "1", "2", "3", "4"]

    run(scenario())


def test_without_handlers_a_client_may_send_what_it_likes(run):
    async def scenario():
        hub = Hub()
        async with connections(hub) as raw:
            for _ in range(100):
                await raw.send_frame(TEXT, b"nobody listens")
            assert await say_goodbye(raw) == (1000, "")
        assert hub.stats()["received_messages"] == 100

    run(scenario())


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


# Disconnect.


async def disconnect_of(end, hub=None):
    """What on_disconnect is told when `end(raw, client)` has ended a connection, and the CLOSE that the peer saw."""
    hub = hub or Hub()
    told = []
    hub.on_disconnect(lambda client, disconnect: told.append((client, disconnect)))
    async with connections(hub, receive_buffer_bytes=4096) as raw:
        (client,) = hub.clients()
        close = await end(raw, client)
        await until(lambda: told)
        assert told == [(client, client.disconnect)]
        disconnect = told[0][1]
        assert isinstance(disconnect, Disconnect)
        assert hub.stats()["disconnects"] == {disconnect.cause: 1}
        return disconnect, close


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (close_payload(1000), 1000, ""),
        (close_payload(4321, "tschüß"), 4321, "tschüß"),
        (close_payload(1001, "x" * 123), 1001, "x" * 123),
    ],
)
def test_disconnect_tells_the_code_and_reason_of_the_clients_close(run, payload, code, reason):
    async def scenario():
        async def end(raw, client):
            await raw.send_frame(CLOSE, payload)
            return await raw.read_close()

        disconnect, close = await disconnect_of(end)
        assert disconnect == (code, reason, "client", "client")
        assert disconnect.code == code
        assert disconnect.reason == reason
        assert disconnect.by == "client"
        assert disconnect.cause == "client"
        assert close == (code, "")

    run(scenario())


def test_a_close_without_a_code_is_1005_and_answered_without_one(run):
    async def scenario():
        async def end(raw, client):
            await raw.send_frame(CLOSE)
            return await raw.read_to_end()

        assert await disconnect_of(end) == ((1005, "", "client", "client"), [Frame(CLOSE, b"")])

    run(scenario())


@pytest.mark.parametrize("vanish", [RawClient.reset, RawClient.close], ids=["rst", "fin"])
def test_a_connection_that_is_lost_is_1006_by_the_network(run, vanish):
    async def scenario():
        async def end(raw, client):
            vanish(raw)

        assert await disconnect_of(end) == ((1006, "", "network", "connection_lost"), None)

    run(scenario())


def test_a_connection_that_is_reset_while_it_is_sent_to_is_1006_by_the_network(run):
    async def scenario():
        hub = Hub()

        async def end(raw, client):
            raw.reset()
            while client.disconnect is None:  # send(2) may be the first to notice
                hub.publish("default", "x")
                await asyncio.sleep(0)

        disconnect, _ = await disconnect_of(end, hub)
        assert disconnect[:3] == (1006, "", "network")
        assert disconnect.cause in ("connection_lost", "send_failed")

    run(scenario())


def test_a_connection_that_send_finds_dead_is_1006_by_the_network(run):
    async def scenario():
        hub = Hub()

        async def end(raw, client):
            client.pause_reading()  # so that only send(2) can notice
            raw.reset()
            while client.disconnect is None:
                hub.publish("default", "x")
                await asyncio.sleep(0)

        assert await disconnect_of(end, hub) == ((1006, "", "network", "send_failed"), None)

    run(scenario())


def test_a_close_by_the_application_is_by_the_server(run):
    async def scenario():
        async def end(raw, client):
            client.close(4000, "enough")
            await raw.send_frame(CLOSE, close_payload(4999, "the answer is not what ended it"))
            return await raw.read_close()

        assert await disconnect_of(end) == ((4000, "enough", "server", "application"), (4000, "enough"))

    run(scenario())


def test_an_abort_is_1006_by_the_server(run):
    async def scenario():
        async def end(raw, client):
            client.abort()
            return await raw.read_close()

        assert await disconnect_of(end) == ((1006, "", "server", "aborted"), (None, ""))

    run(scenario())


def test_an_eviction_is_1013_by_the_server(run):
    async def scenario():
        hub = Hub()
        hub.configure("default", max_lag_bytes=1000, max_burst_bytes=0)

        async def end(raw, client):
            while client.disconnect is None:
                hub.publish("default", bytes(100_000))
                await asyncio.sleep(0)
            await raw.send_frame(CLOSE, close_payload(1013))
            return await raw.read_close()

        assert await disconnect_of(end, hub) == (
            (1013, "slow consumer", "server", "slow_consumer"),
            (1013, "slow consumer"),
        )

    run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_closes_is_1001_by_the_server_and_told_before_close_returns(run, kind):
    async def scenario():
        hub = Hub(close_seconds=20)
        told = []
        register(hub, "on_disconnect", lambda client, disconnect: told.append(disconnect), kind)
        server = await serve(hub)
        with closing(await RawClient.connect(server.port)) as raw:
            closing_server = asyncio.create_task(server.close())
            assert (await raw.read_frames(1))[0].payload == close_payload(1001, "going away")
            await raw.send_frame(CLOSE, close_payload(1001))
            await closing_server
            assert told == [(1001, "going away", "server", "going_away")]

    run(scenario())


def test_on_disconnect_is_told_of_a_client_whose_handler_had_to_be_cancelled(run):
    async def scenario():
        hub = Hub(close_seconds=0.05)
        at_work, cancelled, told = asyncio.Event(), asyncio.Event(), []

        @hub.on_message
        async def work_for_ever(client, message):
            at_work.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        hub.on_disconnect(lambda client, disconnect: told.append(disconnect.cause))
        async with connections(hub) as raw:
            await raw.send_frame(TEXT, b"x")
            await at_work.wait()
            await say_goodbye(raw)
        await cancelled.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        assert told == ["client"]

    run(scenario())


# The bounded inbox.


# The mask is zero, so that making big messages is quick.
HEADER = encode_frame(BINARY, bytes(MESSAGE_BYTES), mask=bytes(4))[:14]


async def send_until_it_stalls(raw, messages):
    """Send big messages until nothing more is taken for many turns; returns what is left of the last one."""
    left, blocked_turns = memoryview(b""), 0
    while blocked_turns < 100:  # a server that reads takes some in each turn
        try:
            if not left:
                number = len(messages)
                assert number < 1024, "64 MiB were read while the handler was busy"
                messages.append(number)
                left = memoryview(HEADER + number.to_bytes(4, "big") + bytes(MESSAGE_BYTES - 4))
            left = left[raw.sock.send(left) :]
            blocked_turns = 0
        except BlockingIOError:
            blocked_turns += 1
            await asyncio.sleep(0)
    return left


@pytest.mark.parametrize("max_inbox_messages", [1, 2, 32])
def test_a_full_inbox_holds_the_peer_back_and_nothing_is_lost(run, max_inbox_messages):
    async def scenario():
        hub = Hub(max_inbox_messages=max_inbox_messages)
        go_on, handled = asyncio.Event(), []

        @hub.on_message
        async def work(client, message):
            await go_on.wait()
            handled.append(int.from_bytes(message[:4], "big"))

        async with connections(hub) as raw:
            sent = []
            left = await send_until_it_stalls(raw, sent)
            # What one read of the socket had brought may be on top of the bound.
            assert hub.stats()["received_messages"] <= max_inbox_messages + 1 + 64
            go_on.set()
            await raw.send(left)
            await raw.send(HEADER + len(sent).to_bytes(4, "big") + bytes(MESSAGE_BYTES - 4))
            await until(lambda: len(handled) == len(sent) + 1)
            assert handled == list(range(len(sent) + 1))
            assert await say_goodbye(raw) == (1000, "")

    run(scenario())


def test_a_client_that_is_held_back_still_gets_what_is_published_and_may_be_closed(run):
    async def scenario():
        hub = Hub(max_inbox_messages=1, close_seconds=20)
        go_on, told = asyncio.Event(), []

        @hub.on_message
        async def work(client, message):
            await go_on.wait()

        hub.on_disconnect(lambda client, disconnect: told.append(disconnect.cause))
        async with connections(hub) as raw:
            left = await send_until_it_stalls(raw, [])
            hub.publish("default", "hello")
            assert await raw.read_payloads(1) == [b"hello"]
            (client,) = hub.clients()
            client.close(4000)
            await raw.send(bytes(left))  # it is read again: the answer to the CLOSE is behind all this
            await raw.send_frame(CLOSE, close_payload(4000))
            assert await raw.read_close() == (4000, "")
            assert told == []
            go_on.set()
            await until(lambda: told)
            assert told == ["application"]

    run(scenario())


def test_many_small_messages_of_one_read_are_all_kept(run):
    async def scenario():
        hub = Hub(max_inbox_messages=4)
        handled = []

        @hub.on_message
        async def work(client, message):
            await asyncio.sleep(0)
            handled.append(int(message))

        async with connections(hub) as raw:
            await raw.send(b"".join(client_frame(TEXT, b"%d" % number) for number in range(5000)))
            await until(lambda: len(handled) == 5000)
            assert handled == list(range(5000))

    run(scenario())


# Handlers that fail.


class BugError(Exception):
    pass


@pytest.mark.parametrize("on_error_kind", [None, *KINDS])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event", ["on_connect", "on_message"])
def test_a_handler_that_raises_closes_its_client_with_1011_and_hurts_no_other(run, event, kind, on_error_kind, caplog):
    async def scenario():
        hub = Hub()
        told, errors, handled = [], [], []
        failing = []

        def fail(client, message="connect"):
            handled.append(message)
            if message in ("connect", "fail") and not failing:
                failing.append(client)
                raise BugError("a bug")

        register(hub, event, fail, kind)
        hub.on_disconnect(lambda client, disconnect: told.append((client, disconnect)))
        if on_error_kind is not None:
            register(hub, "on_error", lambda client, error: errors.append((client, error)), on_error_kind)
        async with connections(hub, 2) as (first, other):
            if event == "on_message":
                await first.send(client_frame(TEXT, b"fail") + client_frame(TEXT, b"never handled"))
            (close,) = await first.read_frames(1)
            assert close == Frame(CLOSE, close_payload(1011, "internal error"))
            hub.publish("default", "hello")
            await first.send_frame(CLOSE, close_payload(1011))
            assert await first.read_to_end() == []
            assert await other.read_payloads(1) == [b"hello"]
            await until(lambda: told)
            assert told == [(failing[0], (1011, "internal error", "server", "handler_error"))]
            if on_error_kind is not None:
                await until(lambda: errors)
                ((client, error),) = errors
                assert client is failing[0]
                assert isinstance(error, BugError)
            if event == "on_message":
                await other.send_frame(TEXT, b"fine")
                await until(lambda: "fine" in handled)
                assert "never handled" not in handled
            assert hub.stats()["disconnects"] == {"handler_error": 1}

    run(scenario())
    (record,) = caplog.records
    assert record.name == "fastbcast"
    assert record.levelno == logging.ERROR
    assert event in record.getMessage()
    assert isinstance(record.exc_info[1], BugError)
    assert record.exc_info[2] is not None


@pytest.mark.parametrize("on_error_kind", [None, *KINDS])
@pytest.mark.parametrize("kind", KINDS)
def test_an_on_disconnect_that_raises_is_logged_and_told(run, kind, on_error_kind, caplog):
    async def scenario():
        hub = Hub()
        errors, failed = [], []

        def fail(client, disconnect):
            failed.append(disconnect)
            raise BugError("a bug")

        register(hub, "on_disconnect", fail, kind)
        if on_error_kind is not None:
            register(hub, "on_error", lambda client, error: errors.append((client, error)), on_error_kind)
        async with connections(hub, 2) as (first, other):
            (client,) = [one for one in hub.clients() if one.remote_address == first.sock.getsockname()]
            assert await say_goodbye(first) == (1000, "")
            await until(lambda: caplog.records)
            if on_error_kind is not None:
                await until(lambda: errors)
                assert [(who, type(error)) for who, error in errors] == [(client, BugError)]
            hub.publish("default", "hello")
            assert await other.read_payloads(1) == [b"hello"]
            # It had ended before: how it ended stays as it was.
            assert failed == [client.disconnect] == [(1000, "", "client", "client")]
            assert [record.getMessage() for record in caplog.records] == ["on_disconnect failed"]
            assert isinstance(caplog.records[0].exc_info[1], BugError)
            assert hub.stats()["disconnects"] == {"client": 1}

    run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_an_on_error_that_raises_is_logged_only(run, kind, caplog):
    async def scenario():
        hub = Hub()
        calls = []

        def fail(client, message):
            raise BugError("first")

        def fail_again(client, error):
            calls.append(error)
            raise LookupError("second")

        hub.on_message(fail)
        register(hub, "on_error", fail_again, kind)
        async with connections(hub, 2) as (first, other):
            await first.send_frame(TEXT, b"x")
            await first.send_frame(CLOSE, close_payload(1011))
            assert await first.read_close() == (1011, "internal error")
            await until(lambda: len(caplog.records) == 2)
            hub.publish("default", "hello")
            assert await other.read_payloads(1) == [b"hello"]
        assert len(calls) == 1
        assert [record.getMessage() for record in caplog.records] == ["on_message failed", "on_error failed"]
        assert [type(record.exc_info[1]) for record in caplog.records] == [BugError, LookupError]

    run(scenario())


def test_an_on_error_may_return_anything(run, caplog):
    async def scenario():
        hub = Hub()

        def fail(client, message):
            raise BugError("a bug")

        hub.on_message(fail)
        hub.on_error(lambda client, error: "handled")
        async with connections(hub) as raw:
            await raw.send_frame(TEXT, b"x")
            await raw.send_frame(CLOSE, close_payload(1011))
            assert await raw.read_close() == (1011, "internal error")
            await until(lambda: hub.stats()["clients"] == 0)

    run(scenario())
    assert [record.getMessage() for record in caplog.records] == ["on_message failed"]


def test_an_async_handler_that_fails_is_not_called_for_what_waits_in_the_inbox(run):
    async def scenario():
        hub = Hub()
        go_on, handled, told = asyncio.Event(), [], []

        @hub.on_message
        async def work(client, message):
            handled.append(message)
            await go_on.wait()
            raise BugError("a bug")

        hub.on_disconnect(lambda client, disconnect: told.append(disconnect.cause))
        async with connections(hub) as raw:
            await raw.send(client_frame(TEXT, b"1") + client_frame(TEXT, b"2") + client_frame(PING, b""))
            assert await raw.read_frames(1) == [Frame(PONG, b"")]
            go_on.set()
            assert (await raw.read_frames(1))[0].payload[:2] == close_payload(1011)
            await raw.send_frame(CLOSE, close_payload(1011))
            await until(lambda: told)
            assert handled == ["1"]
            assert told == ["handler_error"]

    run(scenario())


def test_a_handler_that_ends_with_cancelled_error_fails_like_any_other(run, caplog):
    async def scenario():
        hub = Hub()
        handled, told = [], []

        @hub.on_message
        async def work(client, message):
            handled.append(message)
            job = asyncio.ensure_future(asyncio.Event().wait())
            job.cancel()
            await job

        hub.on_disconnect(lambda client, disconnect: told.append(disconnect.cause))
        async with connections(hub) as raw:
            await raw.send(client_frame(TEXT, b"1") + client_frame(TEXT, b"2") + client_frame(PING, b""))
            assert await raw.read_frames(1) == [Frame(PONG, b"")]
            assert await raw.read_frames(1) == [Frame(CLOSE, close_payload(1011, "internal error"))]
            await raw.send_frame(CLOSE, close_payload(1011))
            await until(lambda: told)
            assert handled == ["1"]
            assert told == ["handler_error"]

    run(scenario())
    assert [record.getMessage() for record in caplog.records] == ["on_message failed"]


def test_a_handler_that_fails_after_its_client_has_gone_is_logged_and_the_end_is_told(run, caplog):
    async def scenario():
        hub = Hub()
        go_on, told = asyncio.Event(), []

        @hub.on_message
        async def work(client, message):
            await go_on.wait()
            raise BugError("a bug")

        hub.on_disconnect(lambda client, disconnect: told.append(disconnect))
        async with connections(hub) as raw:
            await raw.send_frame(TEXT, b"1")
            assert await say_goodbye(raw) == (1000, "")
            await until(lambda: hub.stats()["clients"] == 0)
            assert told == []
            go_on.set()
            await until(lambda: told)
            assert told == [(1000, "", "client", "client")]

    run(scenario())
    assert [record.getMessage() for record in caplog.records] == ["on_message failed"]


def test_a_handler_that_closes_its_client_and_then_raises_closes_it_once(run):
    async def scenario():
        hub = Hub()

        @hub.on_message
        def close_and_fail(client, message):
            client.close(4000, "first")
            raise BugError("then this")

        async with connections(hub) as raw:
            await raw.send_frame(TEXT, b"x")
            await raw.send_frame(CLOSE, close_payload(4000))
            assert await raw.read_close() == (4000, "first")
            await until(lambda: hub.stats()["clients"] == 0)
            assert hub.stats()["disconnects"] == {"application": 1}

    run(scenario())
