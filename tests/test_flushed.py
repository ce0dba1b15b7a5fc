"""`flushed`: what it waits for, and what it counts."""

import asyncio
import contextlib
import threading
import time

import pytest
from conftest import seconds
from reference import CLOSE, close_payload
from support import (
    POLICIES,
    SMALL_BUFFERS,
    check,
    connections,
    end_turn,
    fall_behind,
    fill,
    numbered,
    until,
)

from fastbcast import Flushed, Hub, PublishQueueFull, serve

FRAME_BYTES = 10_004
# What becomes of a message that a client does not get, on a channel of this policy.
LOST = {"evict": "evicted", "skip": "skipped", "latest": "skipped", "conflate": "conflated"}


async def test_flushed_on_an_empty_hub_returns_at_once():
    hub = Hub()
    assert await hub.flushed() == Flushed()
    channel = hub.channel("a")
    hub.publish("a", "nobody is there")
    assert await hub.flushed() == Flushed()
    assert await channel.flushed() == Flushed()
    async with connections(hub, "/a"):
        assert await hub.flushed() == Flushed()  # it was not there when that was published


async def test_after_flushed_the_kernel_has_everything():
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


async def test_flushed_of_a_channel_does_not_wait_for_another():
    hub = Hub()
    async with connections(hub, "/slow", "/fast", receive_buffer_bytes=4096) as [(_, slow), (raw, _)]:
        await fill(slow, lambda: hub.publish("slow", bytes(100_000)))
        hub.publish("fast", "x")
        assert await hub.channel("fast").flushed() == Flushed(written=1)
        assert await raw.read_payloads(1) == [b"x"]


async def test_a_client_that_never_reads_is_pending_when_the_time_is_up():
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


async def test_a_frame_that_is_still_in_the_transport_is_pending_until_it_is_written():
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


async def test_flushed_returns_when_a_slow_reader_has_caught_up():
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


async def test_what_is_published_after_the_call_is_not_waited_for():
    hub = Hub()
    async with connections(hub, "/", receive_buffer_bytes=4096) as (_, client):
        hub.publish("default", "small")
        flushing = asyncio.create_task(hub.flushed())
        await asyncio.sleep(0)
        await fill(client, lambda: hub.publish("default", bytes(100_000)))
        assert await flushing == Flushed(written=1)


async def test_written_evicted_left_and_pending_add_up():
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


async def test_a_client_that_has_everything_and_leaves_counts_as_written():
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


async def test_several_may_wait_for_flushed_at_once_and_one_may_give_up():
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


# Each outcome, for a cause of its own.


@pytest.mark.parametrize("policy", POLICIES)
async def test_who_has_a_message_who_waits_who_left_and_who_lost_it_are_told_apart(policy):
    hub = Hub()
    hub.configure("x", policy=policy, max_lag_bytes=FRAME_BYTES)
    async with connections(hub, "/x", "/x", "/x", **SMALL_BUFFERS) as [(raw, _), (_, slow), (_, leaving)]:
        channel = hub.channel("x")
        while not (slow.is_writing_paused and leaving.is_writing_paused):
            hub.publish("x", numbered(0), key="k")
            await raw.read_payloads(1)
        seq = hub.publish("x", numbered(1), key="k")
        asked, asked_too = channel.flushed(seq), channel.flushed(timeout=0)
        await raw.read_payloads(1)
        assert await asked_too == Flushed(written=1, pending=2)
        leaving.unsubscribe("x")
        for number in (2, 3):
            hub.publish("x", numbered(number), key="k")
        assert await asked == Flushed(written=1, left=1)._replace(**{LOST[policy]: 1})
        check(hub)


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_message_in_hand_when_the_client_reads_again_counts_as_written(policy):
    hub = Hub()
    hub.configure("x", policy=policy)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        asked = hub.channel("x").flushed(hub.publish("x", numbered(count + 1), key="k"))
        await raw.read_payloads(count + 1)
        assert await asked == Flushed(written=1)


async def test_a_message_without_a_key_that_is_dropped_from_the_compact_log_counts_as_skipped():
    hub = Hub()
    hub.configure("x", policy="conflate", max_lag_bytes=2 * (FRAME_BYTES + 96))
    async with connections(hub, "/x", **SMALL_BUFFERS) as (_, client):
        await fall_behind(hub, "x", client)
        asked = hub.channel("x").flushed(hub.publish("x", numbered(1)))
        hub.publish("x", numbered(2))
        hub.publish("x", numbered(3))
        assert await asked == Flushed(skipped=1)


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_client_that_stalls_is_evicted_with_what_waited_for_it(policy):
    hub = Hub(stall_seconds=0.05)
    hub.configure("x", policy=policy)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (_, client):
        await fall_behind(hub, "x", client)
        asked = hub.channel("x").flushed(hub.publish("x", "waits", key="k"))
        assert await asked == Flushed(evicted=1)
        assert client.disconnected.cause == "stalled"


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_client_with_too_many_direct_messages_is_evicted_with_what_waited_for_it(policy):
    hub = Hub(max_direct_bytes=1000)
    hub.configure("x", policy=policy)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (_, client):
        await fall_behind(hub, "x", client)
        asked = hub.channel("x").flushed(hub.publish("x", "waits", key="k"))
        await end_turn()
        assert client.send(bytes(1001)) is False
        assert await asked == Flushed(evicted=1)
        assert client.disconnected.cause == "direct_overflow"


@pytest.mark.parametrize("policy", ["evict", "skip", "latest"])
async def test_who_is_relieved_of_a_full_log_counts_as_its_policy_has_it(policy):
    hub = Hub(max_log_bytes=300_000)
    hub.configure("x", policy=policy)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (_, client):
        count = await fall_behind(hub, "x", client)
        asked = hub.channel("x").flushed(hub.publish("x", numbered(count + 1)))
        while client.is_open and not client.missed.skipped:
            hub.publish("x", numbered(0))
        assert hub.stats()["reliefs"] == 1
        assert await asked == Flushed()._replace(**{LOST[policy]: 1})
        assert client.is_open or client.disconnected.cause == "log_full"


async def unsubscribe(raw, client):
    client.unsubscribe("x")


async def abort(raw, client):
    client.abort()


async def close(raw, client):
    client.close(4000)


async def say_goodbye(raw, client):
    await raw.send_frame(CLOSE, close_payload(1000))


async def reset(raw, client):
    raw.reset()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("leave", [unsubscribe, abort, close, say_goodbye, reset])
async def test_who_goes_before_it_has_a_message_counts_as_left_however_it_goes(policy, leave):
    hub = Hub()
    hub.configure("x", policy=policy)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        await fall_behind(hub, "x", client)
        asked = hub.channel("x").flushed(hub.publish("x", "waits", key="k"))
        await end_turn()
        await leave(raw, client)
        assert await asked == Flushed(left=1)


# When it may be asked, and by whom.


async def test_each_message_may_be_asked_about_right_after_its_publish_and_answered_later():
    hub = Hub()
    hub.configure("x", policy="conflate")
    async with connections(hub, "/x", "/other", **SMALL_BUFFERS) as [(raw, client), (_, joiner)]:
        count = await fall_behind(hub, "x", client)
        channel = hub.channel("x")
        asked = [channel.flushed(channel.publish(numbered(number), key=number % 2)) for number in range(4)]
        joiner.subscribe("x")
        asked.append(channel.flushed(channel.publish(numbered(4), key=0)))
        await raw.read_payloads(count + 2)
        answers = [await answer for answer in reversed(asked)]
        lost, kept = Flushed(conflated=1), Flushed(written=1)
        assert answers[::-1] == [lost, lost, lost, kept, Flushed(written=2)]


async def test_only_the_newest_message_may_be_asked_about_and_that_is_said_at_the_call():
    hub = Hub()
    channel = hub.channel("x")
    for seq in (1, -1):
        with pytest.raises(ValueError, match=f"x: {seq} is not the newest message \\(0\\)"):
            channel.flushed(seq)
    assert await channel.flushed(0) == Flushed()
    async with connections(hub, "/x"):
        first, second = channel.publish("1"), channel.publish("2")
        for seq in (first, second + 1, 0):
            with pytest.raises(ValueError, match=f"{seq} is not the newest message \\(2\\)"):
                channel.flushed(seq)
        assert await channel.flushed(second) == Flushed(written=1)


@pytest.mark.parametrize("rate", [0, 0.1], ids=["blocked", "held back"])
@pytest.mark.parametrize("lost", ["forgotten", "superseded"])
async def test_who_waits_for_a_message_that_is_lost_is_told_at_once(rate, lost):
    hub = Hub(stall_seconds=1000)
    hub.configure("x", policy="conflate", max_messages_per_second=rate, soft_lag_seconds=1000)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (_, client):
        if rate:
            hub.publish("x", "1")   # the next release is in 10 s
            await end_turn()
        else:
            await fall_behind(hub, "x", client)
        asked = asyncio.ensure_future(hub.channel("x").flushed(hub.publish("x", "lost", key="k")))
        await end_turn()
        assert not asked.done()
        if lost == "forgotten":
            assert hub.forget("x", "k")
        else:
            hub.publish("x", "newer", key="k")
        for _ in range(5):
            await end_turn()
        assert asked.done()
        assert asked.result() == Flushed(conflated=1)


@pytest.mark.parametrize("policy", ["evict", "conflate"])
async def test_what_becomes_of_a_message_inside_its_own_publish_is_counted(policy):
    """Each publish sweeps at once, and who is above a limit is dealt with before it returns."""

    hub = Hub()
    hub.configure("x", policy=policy, max_unswept_bytes=1, max_lag_bytes=3 * FRAME_BYTES, max_burst_bytes=0)
    async with connections(hub, "/x", "/x", "/x", receive_buffer_bytes=10**6) as [_, (_, small), (_, also)]:
        channel = hub.channel("x")
        asked = []
        while small.is_open and not channel.seq > 300:  # and control never comes back to the loop
            subscribers = channel.subscribers
            asked.append((subscribers, channel.flushed(channel.publish(numbered(0), key="k"))))
        assert hub.stats()["inline_sweeps"] == channel.seq
        assert also.is_writing_paused or not also.is_open
        answers = [(subscribers, await answer) for subscribers, answer in asked if answer.cr_frame]
        assert all(sum(answer) == subscribers for subscribers, answer in answers)


async def test_a_thread_that_goes_on_publishing_does_not_keep_flushed_from_returning():
    hub = Hub()
    end = time.monotonic() + seconds(5)
    is_over = threading.Event()

    def publish():
        while not is_over.is_set() and time.monotonic() < end:
            with contextlib.suppress(PublishQueueFull):
                hub.publish_threadsafe("x", b"message")

    async with serve(hub):
        thread = threading.Thread(target=publish)
        thread.start()
        try:
            await until(lambda: hub.stats()["published_messages"])
            await hub.flushed()
            assert thread.is_alive()
        finally:
            is_over.set()
            thread.join()
