"""Other threads: `publish_threadsafe`, and what may only be called in the event loop's thread."""

import asyncio
import threading

import pytest
from support import connections

from fastbcast import FastbcastError, Flushed, Hub, PublishQueueFull, WrongThread, serve


async def in_thread(function, *arguments):
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


async def test_from_another_thread_everything_says_to_use_publish_threadsafe():
    hub = Hub()
    async with connections(hub, "/") as (raw, client):
        channel = hub.channel("default")
        for call in (
            lambda: hub.publish("default", "x"),
            lambda: channel.publish("x"),
            lambda: client.send("x"),
            lambda: client.close(),
            lambda: client.abort(),
            lambda: client.subscribe("other"),
            lambda: client.unsubscribe("default"),
            lambda: asyncio.run(hub.flushed()),
            lambda: asyncio.run(channel.flushed()),
        ):
            with pytest.raises(WrongThread, match="publish_threadsafe"):
                await in_thread(call)
        assert client.channels == ("default",)
        assert hub.publish("default", "still fine") == 1
        assert await raw.read_payloads(1) == [b"still fine"]


def test_wrong_thread_is_a_runtime_error_that_says_what_was_called():
    error = WrongThread("publish")
    assert isinstance(error, RuntimeError)
    assert isinstance(error, FastbcastError)
    assert str(error).startswith("publish belongs to the event loop's thread")


async def test_publish_threadsafe_keeps_the_order_of_each_of_many_threads():
    hub = Hub()
    thread_count, message_count = 8, 500

    def publish_all(thread):
        for number in range(message_count):
            hub.publish_threadsafe("default", f"{thread} {number}")

    async with connections(hub, "/", "/") as pairs:
        await asyncio.gather(*[in_thread(publish_all, thread) for thread in range(thread_count)])
        received = [await raw.read_payloads(thread_count * message_count) for raw, _ in pairs]
        assert received[0] == received[1]
        for thread in range(thread_count):
            numbers = [int(payload.split()[1]) for payload in received[0] if int(payload.split()[0]) == thread]
            assert numbers == list(range(message_count))


async def test_publish_threadsafe_wakes_a_loop_that_has_nothing_to_do():
    hub = Hub()
    async with connections(hub, "/") as (raw, _):
        reading = asyncio.create_task(raw.read_payloads(1))
        await asyncio.sleep(0)
        thread = threading.Thread(target=hub.publish_threadsafe, args=("default", "wake up"))
        thread.start()
        assert await reading == [b"wake up"]
        thread.join()


async def test_publish_threadsafe_raises_when_its_queue_is_full_and_loses_nothing_that_it_took():
    hub = Hub(max_threadsafe_bytes=100 * (128 + 10 + 2))
    async with connections(hub, "/") as (raw, _):
        for _ in range(2):  # the second time: the queue is empty again
            taken = []
            with pytest.raises(PublishQueueFull) as caught:
                while True:
                    hub.publish_threadsafe("default", f"{len(taken):08}", key="ab")
                    taken.append(b"%08d" % len(taken))
            assert len(taken) == 100  # 10 bytes each, with the header, a key of 2, and what an entry takes
            assert (caught.value.queued_bytes, caught.value.max_queued_bytes) == (14_000, 14_000)
            assert isinstance(caught.value, FastbcastError)
            assert await raw.read_payloads(100) == taken


async def test_what_other_threads_have_queued_is_published_in_slices():
    hub = Hub(slice_seconds=0.0001)
    async with connections(hub, "/") as (raw, _):
        count = 20_000
        for _ in range(count):
            hub.publish_threadsafe("default", "x")
        turns = 0
        while hub.stats()["published_messages"] < count:
            turns += 1
            await asyncio.sleep(0)
        assert turns > 3
        assert await raw.read_payloads(count) == [b"x"] * count
        for number in range(count):
            hub.publish_threadsafe("default", str(number))
        assert (await hub.flushed()).written == 1   # of the newest; nothing waits any more
        assert hub.stats()["published_messages"] == 2 * count
        assert await raw.read_payloads(count) == [str(number).encode() for number in range(count)]


async def test_what_is_published_before_the_hub_is_bound_counts():
    hub = Hub()
    channel = hub.channel("default")
    assert hub.publish("default", "nobody is there") == 1
    await in_thread(hub.publish_threadsafe, "default", "nobody either")
    async with connections(hub, "/") as (raw, _):
        assert hub.publish("default", "hello") == 3
        assert channel.seq == 3
        assert await raw.read_payloads(1) == [b"hello"]


def test_publish_threadsafe_after_the_loop_is_closed_does_not_raise():
    hub = Hub()

    async def serve_once():
        async with serve(hub):
            pass

    asyncio.run(serve_once())
    hub.publish_threadsafe("default", "nobody is there")


async def test_flushed_includes_what_other_threads_have_published_before():
    hub = Hub()
    async with connections(hub, "/") as (raw, _):
        hub.publish_threadsafe("default", "x")
        assert await hub.flushed() == Flushed(written=1)
        assert hub.stats()["published_messages"] == 1
        assert await raw.read_payloads(1) == [b"x"]
