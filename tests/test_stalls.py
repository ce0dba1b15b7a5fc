"""Clients whose sockets take nothing at all: who counts as stalled, who does not, and how it ends."""

import asyncio
import time

import pytest
from support import connections, fill, stall, until

from fastbcast import Disconnect, Flushed, Hub

KIB = 1024
SLOW = Disconnect(1013, "slow consumer", "server", "slow_consumer")
STALLED = SLOW._replace(cause="stalled")
BUFFERS = {"send_buffer_bytes": 16 * KIB, "notsent_lowat_bytes": 4 * KIB, "receive_buffer_bytes": 4096}


@pytest.mark.parametrize("policy", ["evict", "skip", "latest", "conflate"])
async def test_who_takes_nothing_is_closed_under_every_policy_though_nothing_is_published(policy):
    hub = Hub(stall_seconds=0.1)
    hub.configure("x", policy=policy)
    async with connections(hub, "/x", **BUFFERS) as (raw, client):
        published = await stall(hub, "x")
        await until(lambda: not client.is_open)
        assert client.disconnected == STALLED
        assert hub.stats()["subscriptions"] == 0
        # It reads again before close_seconds are over: the CLOSE comes where a frame may begin.
        *frames, close = await raw.read_to_close()
        assert close.payload == b"\x03\xf5slow consumer"
        assert [frame.payload for frame in frames] == published[: len(frames)]
        raw.close()
        await until(lambda: hub.stats()["disconnects"] == {"stalled": 1})


async def test_a_client_that_has_only_direct_messages_may_stall_too():
    hub = Hub(stall_seconds=0.1, close_seconds=0.1)
    async with connections(hub, "/x", **BUFFERS) as (_, client):
        client.unsubscribe("x")
        await fill(client, lambda: client.send(bytes(16 * KIB)))
        await until(lambda: not client.is_open)
        assert client.disconnected == STALLED


async def test_stall_seconds_are_waited_for():
    hub = Hub(stall_seconds=0.2, close_seconds=0.1)
    async with connections(hub, "/x", **BUFFERS) as (_, client):
        began = time.monotonic()
        await stall(hub, "x")
        await until(lambda: not client.is_open)
        assert time.monotonic() - began >= 0.19  # the hub's clock has ticks of some milliseconds


async def test_who_takes_a_little_now_and_then_is_not_stalled_until_it_stops():
    hub = Hub(stall_seconds=0.4, close_seconds=0.1)
    async with connections(hub, "/x", "/x", **BUFFERS) as [(_, silent), (raw, slow)]:
        hub.publish("x", bytes(1024 * KIB))
        await until(lambda: silent.is_writing_paused and slow.is_writing_paused)
        while silent.is_open:
            await raw.receive(2 * KIB)
            await asyncio.sleep(0.005)
        assert silent.disconnected == STALLED
        assert slow.is_open
        assert slow.is_writing_paused  # as it was all the time
        await until(lambda: not slow.is_open)
        assert slow.disconnected == STALLED


async def test_time_in_which_nothing_waited_does_not_count():
    hub = Hub(stall_seconds=0.3, close_seconds=0.1)
    async with connections(hub, "/x", "/y", "/idle", **BUFFERS) as [(raw, client), (_, silent), _]:
        hub.publish("y", bytes(256 * KIB))
        while silent.is_open:  # longer than `client` may take nothing, counted from when it was paused first
            hub.publish("x", bytes(64 * KIB))
            await until(lambda: client.is_writing_paused)
            assert await raw.read_payloads(1) == [bytes(64 * KIB)]
            await until(lambda: not client.is_writing_paused)
        assert silent.disconnected == STALLED
        assert client.is_open
        assert hub.stats()["subscriptions"] == 2  # nor is the idle one gone


async def test_the_timer_ends_when_nobody_waits_and_begins_again():
    hub = Hub(stall_seconds=0.1)
    async with connections(hub, "/x", **BUFFERS) as (raw, client):
        for _ in range(2):
            assert not hub.paused.ticker.is_running
            hub.publish("x", bytes(256 * KIB))
            await until(lambda: client.is_writing_paused)
            assert hub.paused.ticker.is_running
            assert await raw.read_payloads(1) == [bytes(256 * KIB)]
            await until(lambda: not hub.paused.ticker.is_running)
            assert not hub.paused._clients
        assert client.is_open


async def test_the_timer_ends_when_those_it_watched_are_gone():
    hub = Hub(stall_seconds=0.1)
    async with connections(hub, "/x", "/x", **BUFFERS) as [(raw, one), (_, other)]:
        hub.publish("x", bytes(256 * KIB))
        await until(lambda: one.is_writing_paused and other.is_writing_paused)
        raw.reset()
        other.abort()
        await until(lambda: not hub.paused.ticker.is_running)
        assert hub.stats()["clients"] == 0
        assert not hub.paused._clients


async def test_a_close_that_is_not_taken_becomes_an_abort_after_close_seconds():
    hub = Hub(stall_seconds=0.1, close_seconds=0.2)
    ended = []
    hub.on_disconnect(lambda client, disconnect: ended.append(disconnect))
    async with connections(hub, "/x", **BUFFERS) as (raw, client):
        began = time.monotonic()
        published = await stall(hub, "x", 64 * KIB)
        await until(lambda: not client.is_open)
        assert not ended
        await until(lambda: ended)
        assert time.monotonic() - began >= 0.28
        assert ended == [STALLED]
        # An abort: what the kernel had is a part of a frame, and no CLOSE follows it.
        assert await raw.read_payloads(len(published)) == published[:-1]
        assert hub.stats()["log_bytes"] == 0


async def test_the_close_of_a_slow_consumer_that_is_not_taken_becomes_an_abort_too():
    hub = Hub(close_seconds=0.1)
    hub.configure("x", max_lag_bytes=1, max_burst_bytes=0)
    ended = []
    hub.on_disconnect(lambda client, disconnect: ended.append(disconnect))
    async with connections(hub, "/x", **BUFFERS) as (_, client):
        await stall(hub, "x")
        hub.publish("x", "one too much")
        await until(lambda: not client.is_open)
        await until(lambda: ended)
        assert ended == [SLOW]


async def test_a_stalled_client_counts_as_evicted_in_flushed():
    hub = Hub(stall_seconds=0.1, close_seconds=0.1)
    async with connections(hub, "/x", **BUFFERS):
        await stall(hub, "x")
        hub.publish("x", "it will not get this")
        assert await hub.flushed() == Flushed(evicted=1)


async def test_the_soft_limit_passes_though_nothing_is_published():
    hub = Hub(close_seconds=0.1)
    hub.configure("x", soft_lag_bytes=16 * KIB, soft_lag_seconds=0.1)
    async with connections(hub, "/x", **BUFFERS) as (_, client):
        await stall(hub, "x")
        for _ in range(4):
            hub.publish("x", bytes(16 * KIB))
            await asyncio.sleep(0)
        assert client.is_open
        await until(lambda: not client.is_open)
        assert client.disconnected == SLOW
