"""Handlers that fail: which client is closed, what is logged, and what `on_error` is told."""

import asyncio
import logging

import pytest
from reference import CLOSE, PING, PONG, TEXT, Frame, client_frame, close_payload
from support import KINDS, raw_connections, register, say_goodbye, until

from fastbcast import Hub


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

    run(scenario())


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
        async with raw_connections(hub, "/") as raw:
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


def test_a_handler_that_closes_its_client_and_then_raises_closes_it_once(run):
    async def scenario():
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

    run(scenario())
