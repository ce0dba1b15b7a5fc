"""Handlers that fail: which client is closed, what is logged, and what `on_error` is told."""

import asyncio
import builtins
import logging
import sys
from contextlib import closing

import pytest
from raw_client import RawClient
from reference import CLOSE, PING, PONG, TEXT, Frame, client_frame, close_payload
from support import KINDS, raw_connections, register, say_goodbye, until

from fastbcast import Hub, serve


class BugError(Exception):
    pass


class Panic(BaseException):
    """What an extension in Rust raises, and pytest's `fail()`, are no Exceptions either."""


def make_group():
    return builtins.BaseExceptionGroup("of one", [Panic()])


NO_EXCEPTIONS = [asyncio.CancelledError, GeneratorExit, Panic, pytest.fail.Exception]
if sys.version_info >= (3, 11):
    NO_EXCEPTIONS.append(make_group)
no_exception = pytest.mark.parametrize("make_error", NO_EXCEPTIONS, ids=lambda make: make.__name__)


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
        async with raw_connections(hub, "/", "/") as (first, other):
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
    assert (record.event, record.handler) == ("handler_failed", event)
    assert isinstance(record.exc_info[1], BugError)
    assert record.exc_info[2] is not None


@pytest.mark.parametrize("on_error_kind", [None, *KINDS])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_on_disconnect_that_raises_is_logged_and_told(kind, on_error_kind, caplog):
    hub = Hub()
    errors, failed = [], []

    def fail(client, disconnect):
        failed.append(disconnect)
        raise BugError("a bug")

    register(hub, "on_disconnect", fail, kind)
    if on_error_kind is not None:
        register(hub, "on_error", lambda client, error: errors.append((client, error)), on_error_kind)
    async with raw_connections(hub, "/", "/") as (first, other):
        (client,) = [one for one in hub.clients() if one.remote_address == first.sock.getsockname()]
        assert await say_goodbye(first) == (1000, "")
        await until(lambda: caplog.records)
        if on_error_kind is not None:
            await until(lambda: errors)
            assert [(who, type(error)) for who, error in errors] == [(client, BugError)]
        hub.publish("default", "hello")
        assert await other.read_payloads(1) == [b"hello"]
        # It had ended before: how it ended stays as it was.
        assert failed == [client.disconnected] == [(1000, "", "client", "client")]
        assert [record.handler for record in caplog.records] == ["on_disconnect"]
        assert isinstance(caplog.records[0].exc_info[1], BugError)
        assert hub.stats()["disconnects"] == {"client": 1}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_on_error_that_raises_is_logged_only(kind, caplog):
    hub = Hub()
    calls = []

    def fail(client, message):
        raise BugError("first")

    def fail_again(client, error):
        calls.append(error)
        raise LookupError("second")

    hub.on_message(fail)
    register(hub, "on_error", fail_again, kind)
    async with raw_connections(hub, "/", "/") as (first, other):
        await first.send_frame(TEXT, b"x")
        await first.send_frame(CLOSE, close_payload(1011))
        assert await first.read_close() == (1011, "internal error")
        await until(lambda: len(caplog.records) == 2)
        hub.publish("default", "hello")
        assert await other.read_payloads(1) == [b"hello"]
    assert len(calls) == 1
    assert [record.handler for record in caplog.records] == ["on_message", "on_error"]
    assert [type(record.exc_info[1]) for record in caplog.records] == [BugError, LookupError]


def test_an_on_error_may_return_anything(run, caplog):
    async def scenario():
        hub = Hub()

        def fail(client, message):
            raise BugError("a bug")

        hub.on_message(fail)
        hub.on_error(lambda client, error: "handled")
        async with raw_connections(hub, "/") as raw:
            await raw.send_frame(TEXT, b"x")
            await raw.send_frame(CLOSE, close_payload(1011))
            assert await raw.read_close() == (1011, "internal error")
            await until(lambda: hub.stats()["clients"] == 0)

    run(scenario())
    assert [record.handler for record in caplog.records] == ["on_message"]


async def test_an_async_handler_that_fails_is_not_called_for_what_waits_in_the_inbox():
    hub = Hub()
    go_on, handled, told = asyncio.Event(), [], []

    @hub.on_message
    async def work(client, message):
        handled.append(message)
        await go_on.wait()
        raise BugError("a bug")

    hub.on_disconnect(lambda client, disconnect: told.append(disconnect.cause))
    async with raw_connections(hub, "/") as raw:
        await raw.send(client_frame(TEXT, b"1") + client_frame(TEXT, b"2") + client_frame(PING, b""))
        assert await raw.read_frames(1) == [Frame(PONG, b"")]
        go_on.set()
        assert (await raw.read_frames(1))[0].payload[:2] == close_payload(1011)
        await raw.send_frame(CLOSE, close_payload(1011))
        await until(lambda: told)
        assert handled == ["1"]
        assert told == ["handler_error"]


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
        async with raw_connections(hub, "/") as raw:
            await raw.send(client_frame(TEXT, b"1") + client_frame(TEXT, b"2") + client_frame(PING, b""))
            assert await raw.read_frames(1) == [Frame(PONG, b"")]
            assert await raw.read_frames(1) == [Frame(CLOSE, close_payload(1011, "internal error"))]
            await raw.send_frame(CLOSE, close_payload(1011))
            await until(lambda: told)
            assert handled == ["1"]
            assert told == ["handler_error"]

    run(scenario())
    assert [record.handler for record in caplog.records] == ["on_message"]


def test_a_handler_that_fails_after_its_client_has_gone_is_logged_and_the_end_is_told(run, caplog):
    async def scenario():
        hub = Hub()
        go_on, told = asyncio.Event(), []

        @hub.on_message
        async def work(client, message):
            await go_on.wait()
            raise BugError("a bug")

        hub.on_disconnect(lambda client, disconnect: told.append(disconnect))
        async with raw_connections(hub, "/") as raw:
            await raw.send_frame(TEXT, b"1")
            assert await say_goodbye(raw) == (1000, "")
            await until(lambda: hub.stats()["clients"] == 0)
            assert told == []
            go_on.set()
            await until(lambda: told)
            assert told == [(1000, "", "client", "client")]

    run(scenario())
    assert [record.handler for record in caplog.records] == ["on_message"]


async def test_a_handler_that_closes_its_client_and_then_raises_closes_it_once():
    hub = Hub()

    @hub.on_message
    def close_and_fail(client, message):
        client.close(4000, "first")
        raise BugError("then this")

    async with raw_connections(hub, "/") as raw:
        await raw.send_frame(TEXT, b"x")
        await raw.send_frame(CLOSE, close_payload(4000))
        assert await raw.read_close() == (4000, "first")
        await until(lambda: hub.stats()["clients"] == 0)
        assert hub.stats()["disconnects"] == {"application": 1}


@no_exception
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event", ["on_connect", "on_message"])
def test_what_a_handler_raises_is_its_failure_though_it_is_no_exception(run, event, kind, make_error, caplog):
    async def scenario():
        hub = Hub()
        error = make_error()
        handled, errors, told = [], [], []

        def fail(client, message="connect"):
            handled.append(message)
            if message in ("connect", "fail") and not errors:
                raise error

        register(hub, event, fail, kind)
        hub.on_error(lambda client, error: errors.append(error))
        hub.on_disconnect(lambda client, disconnect: told.append(disconnect))
        async with raw_connections(hub, "/") as raw:
            if event == "on_message":
                await raw.send(client_frame(TEXT, b"fail") + client_frame(TEXT, b"never handled"))
            assert await raw.read_frames(1) == [Frame(CLOSE, close_payload(1011, "internal error"))]
            await raw.send_frame(CLOSE, close_payload(1011))
            assert await raw.read_to_end() == []
            await until(lambda: told)
        assert told == [(1011, "internal error", "server", "handler_error")]
        assert errors == [error]
        assert "never handled" not in handled
        assert hub.stats()["disconnects"] == {"handler_error": 1}
        async with raw_connections(hub, "/") as raw:
            assert await say_goodbye(raw) == (1000, "")

    run(scenario())
    (record,) = caplog.records
    assert (record.event, record.levelno, record.handler) == ("handler_failed", logging.ERROR, event)
    assert record.exc_info[2] is not None


@no_exception
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event", ["on_disconnect", "on_error"])
def test_what_the_last_handlers_raise_is_logged_though_it_is_no_exception(run, event, kind, make_error, caplog):
    async def scenario():
        hub = Hub()
        error = make_error()
        told = []

        def fail(client, what):
            raise error

        def fail_first(client, message):
            raise BugError("for on_error to be called")

        register(hub, event, fail, kind)
        if event == "on_error":
            hub.on_message(fail_first)
        else:
            hub.on_error(lambda client, error: told.append(error))
        async with raw_connections(hub, "/") as raw:
            await raw.send_frame(TEXT, b"x")
            code, _ = await say_goodbye(raw)
            assert code == (1000 if event == "on_disconnect" else 1011)
            await until(lambda: caplog.records and caplog.records[-1].handler == event)
            await until(lambda: hub.stats()["clients"] == 0)
        assert told == ([error] if event == "on_disconnect" else [])

    run(scenario())
    assert [record.handler for record in caplog.records] == (["on_message"] if event == "on_error" else []) + [event]


@no_exception
async def test_the_end_of_a_client_that_waits_behind_a_handler_that_fails_is_told_once(make_error):
    hub = Hub()
    go_on, handled, told = asyncio.Event(), [], []

    @hub.on_message
    async def work(client, message):
        handled.append(message)
        await go_on.wait()
        raise make_error()

    hub.on_disconnect(lambda client, disconnect: told.append(disconnect.cause))
    async with raw_connections(hub, "/") as raw:
        await raw.send(client_frame(TEXT, b"1") + client_frame(TEXT, b"2"))
        assert await say_goodbye(raw) == (1000, "")
        await until(lambda: hub.stats()["clients"] == 0)
        assert told == []
        go_on.set()
        await until(lambda: told)
    assert (handled, told) == (["1"], ["client"])


def test_a_handler_that_fails_in_another_way_while_it_is_cancelled_is_logged_and_the_end_is_told(run, caplog):
    async def scenario():
        hub = Hub(close_seconds=0.05)
        at_work, told = asyncio.Event(), []

        @hub.on_message
        async def work(client, message):
            at_work.set()
            try:
                await asyncio.Event().wait()
            finally:
                raise BugError("while it cleans up")

        hub.on_disconnect(lambda client, disconnect: told.append(disconnect.cause))
        async with raw_connections(hub, "/") as raw:
            await raw.send_frame(TEXT, b"x")
            await at_work.wait()
            assert await say_goodbye(raw) == (1000, "")
        assert told == ["client"]

    run(scenario())
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (record.event, record.handler) == ("handler_failed", "on_message")
    assert isinstance(record.exc_info[1], BugError)


def test_a_handler_that_outlives_its_client_is_logged_and_on_disconnect_waits_for_it(run, caplog):
    async def scenario():
        hub = Hub(close_seconds=0.05)
        go_on, told = asyncio.Event(), []

        @hub.on_connect
        async def go_on_for_ever(client):
            await go_on.wait()

        hub.on_disconnect(lambda client, disconnect: told.append(disconnect.cause))
        async with raw_connections(hub, "/") as raw:
            assert await say_goodbye(raw) == (1000, "")
            await until(lambda: caplog.records)
            assert told == []
            go_on.set()
            await until(lambda: told)

    run(scenario())
    (record,) = caplog.records
    assert (record.event, record.levelno, record.handler) == ("handler_outlives_client", logging.WARNING, "on_connect")


async def test_a_client_whose_on_connect_fails_behind_an_async_hook_is_closed_and_counted():
    hub = Hub()

    @hub.authorize
    async def decide(request):
        await asyncio.sleep(0)

    @hub.on_connect
    def fail(client):
        raise Panic

    async with serve(hub) as server:
        with closing(await RawClient.connect(server.port)) as raw:
            await raw.send_frame(CLOSE, close_payload(1011))
            assert await raw.read_close() == (1011, "internal error")
            assert server.stats()["responses"] == {101: 1}
            await until(lambda: hub.stats()["clients"] == 0)


def test_a_logging_handler_that_raises_keeps_no_client_from_its_1011(run, capsys):
    class Broken(logging.Handler):
        def emit(self, record):
            raise BugError("the disk is full")

    async def scenario():
        hub = Hub()
        errors = []

        def fail(client, message):
            raise BugError("a bug")

        hub.on_message(fail)
        hub.on_error(lambda client, error: errors.append(error))
        async with raw_connections(hub, "/") as raw:
            await raw.send_frame(TEXT, b"x")
            await raw.send_frame(CLOSE, close_payload(1011))
            assert await raw.read_close() == (1011, "internal error")
        assert len(errors) == 1

    broken = Broken()
    logging.getLogger("fastbcast").addHandler(broken)
    try:
        run(scenario())
    finally:
        logging.getLogger("fastbcast").removeHandler(broken)
    assert "the disk is full" in capsys.readouterr().err
