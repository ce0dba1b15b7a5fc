"""`flushed`: what it waits for, and what it counts."""

import asyncio

import pytest
from support import connections, fill, until

from fastbcast import Flushed, Hub


def test_flushed_on_an_empty_hub_returns_at_once(run):
    async def scenario():
        hub = Hub()
        assert await hub.flushed() == Flushed()
        channel = hub.channel("a")
        hub.publish("a", "nobody is there")
        assert await hub.flushed() == Flushed()
        assert await channel.flushed() == Flushed()
        async with connections(hub, "/a"):
            assert await hub.flushed() == Flushed()  # it was not there when that was published

    run(scenario())


def test_after_flushed_the_kernel_has_everything(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/a", "/a", "/b") as pairs:
            pairs[0][1].subscribe("b")
            hub.publish("a", bytes(1000))
            hub.publish("b", bytes(1000))
            assert await hub.flushed() == Flushed(written=4)  # counted in subscriptions
            stats = hub.stats()
            assert stats["delivered_messages"] == 4
            assert stats["sent_bytes"] == 4 * 1004
            assert await hub.channel("a").flushed() == Flushed(written=2)

    run(scenario())


def test_flushed_of_a_channel_does_not_wait_for_another(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/slow", "/fast", receive_buffer_bytes=4096) as [(_, slow), (raw, _)]:
            await fill(slow, lambda: hub.publish("slow", bytes(100_000)))
            hub.publish("fast", "x")
            assert await hub.channel("fast").flushed() == Flushed(written=1)
            assert await raw.read_payloads(1) == [b"x"]

    run(scenario())


def test_a_client_that_never_reads_is_pending_when_the_time_is_up(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", "/", receive_buffer_bytes=4096) as [(healthy, _), (_, client)]:
            published = 0
            while not client.is_writing_paused:
                hub.publish("default", bytes(100_000))
                published += 1
                assert await healthy.read_payloads(1) == [bytes(100_000)]
            hub.publish("default", bytes(100_000))
            assert await healthy.read_payloads(1) == [bytes(100_000)]
            assert await hub.flushed(timeout=0.05) == Flushed(written=1, pending=1)
            assert await hub.channel("default").flushed(timeout=0) == Flushed(written=1, pending=1)

    run(scenario())


def test_a_frame_that_is_still_in_the_transport_is_pending_until_it_is_written(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
            hub.publish("default", bytes(1024 * 1024))  # one frame, more than the kernel takes
            assert await hub.flushed(timeout=0.05) == Flushed(pending=1)
            assert client.is_writing_paused
            flushing = asyncio.create_task(hub.flushed())
            await asyncio.sleep(0)
            assert await raw.read_payloads(1) == [bytes(1024 * 1024)]
            assert await flushing == Flushed(written=1)
            assert not client.is_writing_paused

    run(scenario())


def test_flushed_returns_when_a_slow_reader_has_caught_up(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
            await fill(client, lambda: hub.publish("default", bytes(100_000)))
            published = hub.channel("default").seq
            for _ in range(3):
                hub.publish("default", bytes(100_000))
            flushing = asyncio.create_task(hub.flushed())
            await asyncio.sleep(0)
            assert await raw.read_payloads(published + 3) == [bytes(100_000)] * (published + 3)
            assert await flushing == Flushed(written=1)

    run(scenario())


def test_what_is_published_after_the_call_is_not_waited_for(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", receive_buffer_bytes=4096) as (_, client):
            hub.publish("default", "small")
            flushing = asyncio.create_task(hub.flushed())
            await asyncio.sleep(0)
            await fill(client, lambda: hub.publish("default", bytes(100_000)))
            assert await flushing == Flushed(written=1)

    run(scenario())


def test_written_evicted_left_and_pending_add_up(run):
    async def scenario():
        hub = Hub()
        hub.configure("strict", max_lag_bytes=1, max_burst_bytes=0)
        paths = ("/healthy", "/strict", "/leaving", "/closing", "/silent")
        async with connections(hub, *paths, receive_buffer_bytes=4096) as pairs:
            _, strict, leaving, closed, silent = [client for _, client in pairs]
            for client in (strict, leaving, closed, silent):
                await fill(client, lambda client=client: hub.publish(client.channel, bytes(100_000)))
            hub.publish("healthy", "x")
            flushing = asyncio.create_task(hub.flushed(timeout=0.2))
            await asyncio.sleep(0)
            leaving.abort()
            closed.unsubscribe("closing")
            hub.publish("strict", "one too much")
            assert await flushing == Flushed(written=1, evicted=1, left=2, pending=1)
            assert strict.disconnected == (1013, "slow consumer", "server", "slow_consumer")
            # Channels that nobody needs are forgotten, and with them what became of their messages.
            assert await hub.flushed(timeout=0) == Flushed(written=1, pending=1)

    run(scenario())


def test_a_client_that_has_everything_and_leaves_counts_as_written(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", "/", receive_buffer_bytes=4096) as [(_, slow), (raw, quick)]:
            published = 0
            while not slow.is_writing_paused:
                hub.publish("default", bytes(100_000))
                await raw.read_payloads(1)
                published += 1
            flushing = asyncio.create_task(hub.flushed())
            await asyncio.sleep(0)
            quick.unsubscribe("default")
            await asyncio.sleep(0)
            assert not flushing.done()
            slow.abort()
            assert await flushing == Flushed(written=1, left=1)

    run(scenario())


def test_several_may_wait_for_flushed_at_once_and_one_may_give_up(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
            hub.publish("default", bytes(1024 * 1024))
            await until(lambda: client.is_writing_paused)
            first = asyncio.create_task(hub.flushed())
            second = asyncio.create_task(hub.flushed())
            given_up = asyncio.create_task(hub.flushed())
            await asyncio.sleep(0)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            hub.publish("default", "more")
            assert await raw.read_payloads(2) == [bytes(1024 * 1024), b"more"]
            assert await first == await second == Flushed(written=1)

    run(scenario())
