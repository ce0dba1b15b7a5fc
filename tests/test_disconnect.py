"""`Disconnect`: what it tells of each way in which a connection ends."""

import asyncio
import errno
import os
import socket
from contextlib import closing

import pytest
from raw_client import RawClient
from reference import CLOSE, TEXT, Frame, close_payload
from support import KINDS, SMALL_BUFFERS, connections, fall_behind, raw_connections, register, say_goodbye, until

from fastbcast import Disconnect, Hub, serve


async def disconnect_of(end, hub=None):
    """What on_disconnect is told when `end(raw, client)` has ended a connection, and the CLOSE that the peer saw."""
    hub = hub or Hub()
    told = []
    hub.on_disconnect(lambda client, disconnect: told.append((client, disconnect)))
    async with raw_connections(hub, "/", receive_buffer_bytes=4096) as raw:
        (client,) = hub.clients()
        close = await end(raw, client)
        await until(lambda: told)
        assert told == [(client, client.disconnected)]
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
async def test_disconnect_tells_the_code_and_reason_of_the_clients_close(payload, code, reason):
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


async def test_a_close_without_a_code_is_1005_and_answered_without_one():
    async def end(raw, client):
        await raw.send_frame(CLOSE)
        return await raw.read_to_end()

    assert await disconnect_of(end) == ((1005, "", "client", "client"), [Frame(CLOSE, b"")])


@pytest.mark.parametrize("vanish", [RawClient.reset, RawClient.close], ids=["rst", "fin"])
async def test_a_connection_that_is_lost_is_1006_by_the_network(vanish):
    async def end(raw, client):
        vanish(raw)

    assert await disconnect_of(end) == ((1006, "", "network", "connection_lost"), None)


async def test_a_client_that_has_sent_fin_is_not_open_though_its_socket_is_full():
    hub = Hub(close_seconds=600)
    told = []
    hub.on_disconnect(lambda client, disconnect: told.append(disconnect))
    async with connections(hub, "/", **SMALL_BUFFERS) as (raw, client):
        sent = await fall_behind(hub, "default", client)
        raw.sock.shutdown(socket.SHUT_WR)
        await until(lambda: not client.channels)
        assert client.disconnected == (1006, "", "network", "connection_lost")
        assert not client.is_open
        assert client.send("too late") is False
        assert client.subscribe("x") is False
        client.close()      # has nothing to add
        assert len(await raw.read_payloads(sent)) == sent
        await until(lambda: told)
        assert told == [client.disconnected]


async def test_a_connection_that_is_reset_while_it_is_sent_to_is_1006_by_the_network():
    hub = Hub()

    async def end(raw, client):
        raw.reset()
        while client.disconnected is None:  # send(2) may be the first to notice
            hub.publish("default", "x")
            await asyncio.sleep(0)

    disconnect, _ = await disconnect_of(end, hub)
    assert (disconnect.code, disconnect.by) == (1006, "network")
    assert disconnect.cause in ("connection_lost", "send_failed")


async def test_a_connection_that_send_finds_dead_is_1006_by_the_network():
    hub = Hub()

    async def end(raw, client):
        client._pause_reading()  # so that only send(2) can notice
        raw.reset()
        while client.disconnected is None:
            hub.publish("default", "x")
            await asyncio.sleep(0)

    disconnect, close = await disconnect_of(end, hub)
    assert disconnect[:1] + disconnect[2:] == (1006, "network", "send_failed")
    assert disconnect.reason in (os.strerror(errno.ECONNRESET), os.strerror(errno.EPIPE))
    assert close is None


async def test_a_close_by_the_application_is_by_the_server():
    async def end(raw, client):
        client.close(4000, "enough")
        await raw.send_frame(CLOSE, close_payload(4999, "the answer is not what ended it"))
        return await raw.read_close()

    assert await disconnect_of(end) == ((4000, "enough", "server", "application"), (4000, "enough"))


async def test_an_abort_is_1006_by_the_server():
    async def end(raw, client):
        client.abort()
        return await raw.read_close()

    assert await disconnect_of(end) == ((1006, "", "server", "aborted"), (None, ""))


async def test_an_eviction_is_1013_by_the_server():
    hub = Hub()
    hub.configure("default", max_lag_bytes=1000, max_burst_bytes=0)

    async def end(raw, client):
        while client.disconnected is None:
            hub.publish("default", bytes(100_000))
            await asyncio.sleep(0)
        await raw.send_frame(CLOSE, close_payload(1013))
        return await raw.read_close()

    assert await disconnect_of(end, hub) == (
        (1013, "slow consumer", "server", "slow_consumer"),
        (1013, "slow consumer"),
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_closes_is_1001_by_the_server_and_told_before_close_returns(kind):
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


async def test_on_disconnect_is_told_of_a_client_whose_handler_had_to_be_cancelled():
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
    async with raw_connections(hub, "/") as raw:
        await raw.send_frame(TEXT, b"x")
        await at_work.wait()
        await say_goodbye(raw)
    await cancelled.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert told == ["client"]
