"""Hub, Channel and Client: publishing, channels, `flushed`, direct messages, closing."""

import array
import asyncio
import contextlib
import gc
import threading
from contextlib import closing

import pytest
from raw_client import RawClient
from reference import BINARY, CLOSE, TEXT, Frame

from fastbcast import (
    Channel,
    FastbcastError,
    Flushed,
    Hub,
    MessageTooBig,
    PublishQueueFull,
    WrongThread,
    serve,
)


async def until(condition):
    """Give the loop turns until `condition()` is true; the fixture `run` bounds it."""
    while not condition():
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def connections(hub, *paths, receive_buffer_bytes=None, **options):
    """Serve `hub` and connect to each path: gives (RawClient, Client) for each, a pair if there is one path."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(hub, **options))
        pairs = []
        for path in paths:
            raw = stack.enter_context(closing(await RawClient.connect(server.port, path, receive_buffer_bytes)))
            (client,) = [one for one in hub.clients() if one.remote_address == raw.sock.getsockname()]
            pairs.append((raw, client))
        yield pairs[0] if len(paths) == 1 else pairs


async def fill(client, publish):
    """Publish until the kernel refuses more for `client`."""
    while not client.is_writing_paused:
        publish()
        await asyncio.sleep(0)


async def in_thread(function, *arguments):
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


# configure.


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_lag": 1}, TypeError),
        ({"max_lag_bytes": "1"}, TypeError),
        ({"max_lag_bytes": 1.5}, TypeError),
        ({"max_lag_bytes": True}, TypeError),
        ({"max_lag_bytes": None}, TypeError),
        ({"max_lag_bytes": 0}, ValueError),
        ({"max_lag_bytes": -1}, ValueError),
        ({"max_lag_bytes": 2**63}, ValueError),
        ({"max_burst_bytes": -1}, ValueError),
        ({"max_unswept_bytes": 0}, ValueError),
        ({"coalesce_seconds": -0.1}, ValueError),
        ({"coalesce_seconds": float("nan")}, ValueError),
        ({"coalesce_seconds": float("inf")}, ValueError),
    ],
)
def test_a_bad_setting_raises_when_it_is_set(settings, error):
    hub = Hub()
    with pytest.raises(error, match=next(iter(settings))):
        hub.configure("*", **settings)
    hub.channel("any")  # and was not kept


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_messages_bytes": 1}, TypeError),
        ({"max_message_bytes": 0}, ValueError),
        ({"max_message_bytes": 1e6}, TypeError),
        ({"close_seconds": 0}, ValueError),
        ({"slice_seconds": 0}, ValueError),
        ({"max_inbox_messages": 0}, ValueError),
        ({"max_fragments": True}, TypeError),
    ],
)
def test_a_bad_option_of_the_hub_raises_at_once(options, error):
    with pytest.raises(error, match=next(iter(options))):
        Hub(**options)


async def lag_at_eviction(hub, channel):
    """How far a client that never reads gets behind on `channel` before it is evicted, in messages."""
    async with connections(hub, f"/{channel}", receive_buffer_bytes=4096) as (_, client):
        await fill(client, lambda: hub.publish(channel, bytes(10_000)))
        behind = 0
        while client.is_open and behind < 50:
            hub.publish(channel, bytes(10_000))
            behind += 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return behind


def test_settings_hold_for_the_channels_that_the_pattern_matches(run):
    async def scenario():
        hub = Hub()
        hub.configure("strict.*", max_lag_bytes=1, max_burst_bytes=0)
        assert await lag_at_eviction(hub, "strict.prices") == 1
        assert await lag_at_eviction(hub, "strict") == 50  # never evicted
        assert await lag_at_eviction(hub, "STRICT.prices") == 50

    run(scenario())


def test_of_several_patterns_the_later_wins_and_leaves_what_it_does_not_name(run):
    async def scenario():
        hub = Hub()
        hub.configure("a*", max_lag_bytes=1, max_burst_bytes=0)
        hub.configure("ab*", max_lag_bytes=200_000)  # max_burst_bytes stays 0
        hub.configure("abc", max_lag_bytes=1)
        assert await lag_at_eviction(hub, "a") == 1
        assert 15 < await lag_at_eviction(hub, "ab") < 25
        assert await lag_at_eviction(hub, "abc") == 1

    run(scenario())


def test_a_channel_keeps_the_settings_it_was_made_with(run):
    async def scenario():
        hub = Hub()
        channel = hub.channel("prices")
        hub.configure("*", max_lag_bytes=1, max_burst_bytes=0)
        assert await lag_at_eviction(hub, "prices") == 50
        del channel
        gc.collect()
        assert await lag_at_eviction(hub, "prices") == 1  # made anew

    run(scenario())


def test_a_channel_that_coalesces_sends_less_often_and_loses_nothing(run):
    async def scenario():
        hub = Hub()
        hub.configure("slow", coalesce_seconds=0.05)
        async with connections(hub, "/slow") as (raw, _):
            for number in range(10):
                hub.publish("slow", str(number))
                await asyncio.sleep(0)
            assert await raw.read_payloads(10) == [b"%d" % number for number in range(10)]
            assert hub.stats()["sends"] == 1

    run(scenario())


# publish.


def test_seq_counts_from_1_for_each_channel(run):
    async def scenario():
        hub = Hub()
        a, b = hub.channel("a"), hub.channel("b")
        assert (a.seq, b.seq) == (0, 0)
        assert [hub.publish("a", "x") for _ in range(3)] == [1, 2, 3]
        assert [hub.publish("b", "x"), a.publish("x"), b.publish("x")] == [1, 4, 2]
        assert (a.seq, b.seq) == (4, 2)
        async with connections(hub, "/a") as (raw, _):
            assert hub.publish("a", "with a subscriber") == 5
            assert await raw.read_payloads(1) == [b"with a subscriber"]
        assert a.publish("without") == 6

    run(scenario())


MESSAGES = {
    "str": ("text ü €", None, Frame(TEXT, "text ü €".encode())),
    "latin-1 str": ("é", None, Frame(TEXT, b"\xc3\xa9")),
    "empty str": ("", None, Frame(TEXT, b"")),
    "str with NUL": ("a\x00b", None, Frame(TEXT, b"a\x00b")),
    "str, text=True": ("text", True, Frame(TEXT, b"text")),
    "bytes": (b"\x00\xff", None, Frame(BINARY, b"\x00\xff")),
    "empty bytes": (b"", None, Frame(BINARY, b"")),
    "bytes, text=False": (b"ok", False, Frame(BINARY, b"ok")),
    "bytes, text=True": ("ü".encode(), True, Frame(TEXT, "ü".encode())),
    "bytearray": (bytearray(b"abc"), None, Frame(BINARY, b"abc")),
    "bytearray, text=True": (bytearray(b"abc"), True, Frame(TEXT, b"abc")),
    "memoryview": (memoryview(b"xabcx")[1:4], None, Frame(BINARY, b"abc")),
    "read-only memoryview": (memoryview(bytearray(b"abc")).toreadonly(), None, Frame(BINARY, b"abc")),
    "array of ints": (array.array("H", [0x0101, 0x0202]), None, Frame(BINARY, b"\x01\x01\x02\x02")),
    "memoryview in two dimensions": (memoryview(b"abcd").cast("B", (2, 2)), None, Frame(BINARY, b"abcd")),
    "125 bytes": (bytes(125), None, Frame(BINARY, bytes(125))),
    "126 bytes": (bytes(126), None, Frame(BINARY, bytes(126))),
    "65535 bytes": (bytes(65535), None, Frame(BINARY, bytes(65535))),
    "65536 bytes": (bytes(65536), None, Frame(BINARY, bytes(65536))),
}


@pytest.mark.parametrize("way", ["publish", "channel", "publish_threadsafe", "send"])
@pytest.mark.parametrize(("message", "text", "frame"), MESSAGES.values(), ids=MESSAGES)
def test_a_message_arrives_as_the_frame_it_stands_for(run, way, message, text, frame):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/") as (raw, client):
            if way == "publish":
                assert hub.publish("default", message, text=text) == 1
            elif way == "channel":
                assert hub.channel("default").publish(message, text=text) == 1
            elif way == "publish_threadsafe":
                assert hub.publish_threadsafe("default", message, text=text) is None
            else:
                assert client.send(message, text=text) is True
            assert await raw.read_frames(1) == [frame]

    run(scenario())


BAD_MESSAGES = {
    "None": (None, None, TypeError),
    "int": (5, None, TypeError),
    "list of bytes": ([b"x"], None, TypeError),
    "str, text=False": ("x", False, TypeError),
    "lone surrogate": ("a\ud800", None, ValueError),
    "not UTF-8, text=True": (b"\xff", True, ValueError),
    "cut UTF-8, text=True": ("€".encode()[:2], True, ValueError),
    "not contiguous": (memoryview(b"abcdef")[::2], None, ValueError),
    "reversed": (memoryview(b"abcdef")[::-1], True, ValueError),
    "too big": (bytes(1001), None, MessageTooBig),
    "too big as UTF-8": ("ü" * 501, None, MessageTooBig),
    "far too big": (bytes(100_000), None, MessageTooBig),
}


@pytest.mark.parametrize("way", ["publish", "channel", "publish_threadsafe", "send"])
@pytest.mark.parametrize(("message", "text", "error"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_a_message_that_cannot_be_sent_raises_and_nothing_is_queued(run, way, message, text, error):
    async def scenario():
        hub = Hub(max_message_bytes=1000)
        async with connections(hub, "/") as (raw, client):
            channel = hub.channel("default")
            assert hub.publish("default", "before") == 1
            with pytest.raises(error):
                if way == "publish":
                    hub.publish("default", message, text=text)
                elif way == "channel":
                    channel.publish(message, text=text)
                elif way == "publish_threadsafe":
                    hub.publish_threadsafe("default", message, text=text)
                else:
                    client.send(message, text=text)
            assert channel.seq == 1
            assert hub.publish("default", "after") == 2
            assert await raw.read_payloads(2) == [b"before", b"after"]
            assert hub.stats()["published_messages"] == 2

    run(scenario())


def test_a_message_of_exactly_max_message_bytes_is_sent(run):
    async def scenario():
        hub = Hub(max_message_bytes=1000)
        async with connections(hub, "/") as (raw, _):
            hub.publish("default", bytes(1000))
            hub.publish("default", "ü" * 500)
            assert await raw.read_payloads(2) == [bytes(1000), "ü".encode() * 500]

    run(scenario())


def test_message_too_big_carries_the_facts():
    with pytest.raises(MessageTooBig, match=r"1001.*1000") as caught:
        Hub(max_message_bytes=1000).publish("default", bytes(1001))
    assert (caught.value.message_bytes, caught.value.max_message_bytes) == (1001, 1000)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FastbcastError)


@pytest.mark.parametrize("way", ["publish", "publish_threadsafe", "send"])
@pytest.mark.parametrize("size", [10, 100_000])
def test_scribbling_on_the_buffer_afterwards_changes_nothing(run, way, size):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
            if way == "send":  # also what waits in the Transport
                await fill(client, lambda: client.send(bytes(100_000)))
            buffer = bytearray(b"a" * size)
            {"send": client.send}.get(way, lambda message: getattr(hub, way)("default", message))(buffer)
            buffer[:] = b"b" * size
            buffer.extend(b"not exported any more")  # BufferError if somebody held it
            payloads = []
            while not payloads or payloads[-1][:1] != b"a":
                payloads += await raw.read_payloads(1)
            assert payloads[-1] == b"a" * size

    run(scenario())


def test_a_channel_name_must_be_a_str():
    hub = Hub()
    for name in (None, 5, b"default"):
        with pytest.raises(TypeError, match="name must be str"):
            hub.publish(name, "x")
        with pytest.raises(TypeError, match="name must be str"):
            hub.publish_threadsafe(name, "x")
        with pytest.raises(TypeError, match="name must be str"):
            hub.channel(name)


def test_many_messages_of_one_turn_arrive_in_order_in_few_sends(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", "/") as pairs:
            for number in range(1000):
                hub.publish("default", str(number))
            for raw, _ in pairs:
                assert await raw.read_payloads(1000) == [b"%d" % number for number in range(1000)]
            assert hub.stats()["sends"] < 50

    run(scenario())


# Threads.


def test_from_another_thread_everything_says_to_use_publish_threadsafe(run):
    async def scenario():
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

    run(scenario())


def test_wrong_thread_is_a_runtime_error_that_says_what_was_called():
    error = WrongThread("publish")
    assert isinstance(error, RuntimeError)
    assert isinstance(error, FastbcastError)
    assert str(error).startswith("publish belongs to the event loop's thread")


def test_publish_threadsafe_keeps_the_order_of_each_of_many_threads(run):
    async def scenario():
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

    run(scenario())


def test_publish_threadsafe_wakes_a_loop_that_has_nothing_to_do(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/") as (raw, _):
            reading = asyncio.create_task(raw.read_payloads(1))
            await asyncio.sleep(0)
            thread = threading.Thread(target=hub.publish_threadsafe, args=("default", "wake up"))
            thread.start()
            assert await reading == [b"wake up"]
            thread.join()

    run(scenario())


def test_publish_threadsafe_raises_when_its_queue_is_full_and_loses_nothing_that_it_took(run):
    async def scenario():
        hub = Hub(max_threadsafe_bytes=1000)
        async with connections(hub, "/") as (raw, _):
            for _ in range(2):  # the second time: the queue is empty again
                taken = []
                with pytest.raises(PublishQueueFull) as caught:
                    while True:
                        hub.publish_threadsafe("default", f"{len(taken):08}")
                        taken.append(b"%08d" % len(taken))
                assert len(taken) == 100  # 10 bytes each, with the header
                assert (caught.value.queued_bytes, caught.value.max_queued_bytes) == (1000, 1000)
                assert isinstance(caught.value, FastbcastError)
                assert await raw.read_payloads(100) == taken

    run(scenario())


def test_what_is_published_before_the_hub_is_bound_counts(run):
    async def scenario():
        hub = Hub()
        channel = hub.channel("default")
        assert hub.publish("default", "nobody is there") == 1
        await in_thread(hub.publish_threadsafe, "default", "nobody either")
        async with connections(hub, "/") as (raw, _):
            assert hub.publish("default", "hello") == 3
            assert channel.seq == 3
            assert await raw.read_payloads(1) == [b"hello"]

    run(scenario())


def test_publish_threadsafe_after_the_loop_is_closed_does_not_raise():
    hub = Hub()

    async def serve_once():
        async with serve(hub):
            pass

    asyncio.run(serve_once())
    hub.publish_threadsafe("default", "nobody is there")


def test_flushed_includes_what_other_threads_have_published_before(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/") as (raw, _):
            hub.publish_threadsafe("default", "x")
            assert await hub.flushed() == Flushed(1, 0, 0, 0)
            assert hub.stats()["published_messages"] == 1
            assert await raw.read_payloads(1) == [b"x"]

    run(scenario())


# Channels.


def test_a_client_of_several_channels_gets_what_is_published_to_each(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/a") as (raw, client):
            assert client.subscribe("b") is True
            assert client.subscribe("c") is True
            assert client.channels == ("a", "b", "c")
            for name in ("a", "b", "c", "d"):
                assert hub.publish(name, name) == 1
            payloads = await raw.read_payloads(3)
            assert sorted(payloads) == [b"a", b"b", b"c"]
            hub.publish("d", "not for it")
            for number in range(5):  # in turns of their own: in order across channels, too
                hub.publish("abc"[number % 3], str(number))
                await hub.flushed()
            assert await raw.read_payloads(5) == [b"0", b"1", b"2", b"3", b"4"]

    run(scenario())


def test_a_new_subscriber_gets_what_is_published_from_then_on(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/a", "/other") as [(old, _), (new, client)]:
            hub.publish("a", "before")
            client.subscribe("a")
            hub.publish("a", "after")
            assert await old.read_payloads(2) == [b"before", b"after"]
            assert await new.read_payloads(1) == [b"after"]

    run(scenario())


def test_subscribing_twice_is_subscribing_once(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/a") as (raw, client):
            assert client.subscribe("a") is True
            assert client.channels == ("a",)
            assert hub.count_subscribers("a") == 1
            hub.publish("a", "once")
            hub.publish("a", "end")
            assert await raw.read_payloads(2) == [b"once", b"end"]
            assert client.unsubscribe("a") is True
            assert hub.count_subscribers("a") == 0

    run(scenario())


def test_after_unsubscribe_nothing_more_comes_of_that_channel(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/a") as (raw, client):
            client.subscribe("b")
            hub.publish("a", "1")
            await hub.flushed()
            assert client.unsubscribe("a") is True
            assert client.unsubscribe("a") is False
            assert client.unsubscribe("never") is False
            assert client.channels == ("b",)
            hub.publish("a", "not for it")
            hub.publish("b", "2")
            assert await raw.read_payloads(2) == [b"1", b"2"]
            client.subscribe("a")
            hub.publish("a", "3")
            assert await raw.read_payloads(1) == [b"3"]

    run(scenario())


def test_a_client_on_its_way_out_cannot_subscribe(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/a") as (raw, client):
            client.close()
            assert client.is_open is False
            assert client.subscribe("b") is False
            assert client.channels == ()
            assert hub.count_subscribers("a") == 0
            assert hub.count_subscribers("b") == 0
            await raw.send_frame(CLOSE, b"\x03\xe8")
            assert await raw.read_close() == (1000, "")

    run(scenario())


def test_a_channel_that_nobody_needs_is_forgotten(run):
    async def scenario():
        hub = Hub()
        assert hub.publish("a", "x") == 1
        assert hub.channels() == []
        assert hub.publish("a", "x") == 1  # made anew
        async with connections(hub, "/a") as (raw, client):
            assert hub.publish("a", "one") == 1
            assert [channel.name for channel in hub.channels()] == ["a"]
            assert await raw.read_payloads(1) == [b"one"]
            client.unsubscribe("a")
            await until(lambda: hub.channels() == [])
            client.subscribe("a")
            assert hub.publish("a", "one again") == 1
            assert await raw.read_payloads(1) == [b"one again"]
        await until(lambda: hub.stats()["channels"] == 0)

    run(scenario())


def test_a_channel_that_the_application_keeps_is_not_forgotten(run):
    async def scenario():
        hub = Hub()
        channel = hub.channel("a")
        assert isinstance(channel, Channel)
        assert hub.channel("a") is channel
        for seq in (1, 2, 3):
            assert hub.publish("a", "x") == seq
            async with connections(hub, "/a"):
                assert channel.subscribers == hub.count_subscribers("a") == 1
            await until(lambda: hub.count_subscribers("a") == 0)
            assert hub.channels() == [channel]
        del channel
        gc.collect()
        assert hub.channels() == []

    run(scenario())


def test_a_thousand_channels_come_and_go(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", subscribe_path=False) as (raw, client):
            for number in range(1000):
                client.subscribe(str(number))
            assert hub.stats()["subscriptions"] == hub.stats()["channels"] == 1000
            for number in range(1000):
                hub.publish(str(number), str(number))
            assert sorted(map(int, await raw.read_payloads(1000))) == list(range(1000))
            for number in range(1000):
                assert client.unsubscribe(str(number))
            assert hub.stats()["subscriptions"] == hub.stats()["channels"] == 0

    run(scenario())


# flushed.


def test_flushed_on_an_empty_hub_returns_at_once(run):
    async def scenario():
        hub = Hub()
        assert await hub.flushed() == Flushed(0, 0, 0, 0)
        channel = hub.channel("a")
        hub.publish("a", "nobody is there")
        assert await hub.flushed() == Flushed(0, 0, 0, 0)
        assert await channel.flushed() == Flushed(0, 0, 0, 0)
        async with connections(hub, "/a"):
            assert await hub.flushed() == Flushed(1, 0, 0, 0)  # nothing to write: all written

    run(scenario())


def test_after_flushed_the_kernel_has_everything(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/a", "/a", "/b") as pairs:
            pairs[0][1].subscribe("b")
            hub.publish("a", bytes(1000))
            hub.publish("b", bytes(1000))
            assert await hub.flushed() == Flushed(4, 0, 0, 0)  # counted in subscriptions
            stats = hub.stats()
            assert stats["delivered_messages"] == 4
            assert stats["sent_bytes"] == 4 * 1004
            assert await hub.channel("a").flushed() == Flushed(2, 0, 0, 0)

    run(scenario())


def test_flushed_of_a_channel_does_not_wait_for_another(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/slow", "/fast", receive_buffer_bytes=4096) as [(_, slow), (raw, _)]:
            await fill(slow, lambda: hub.publish("slow", bytes(100_000)))
            hub.publish("fast", "x")
            assert await hub.channel("fast").flushed() == Flushed(1, 0, 0, 0)
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
            assert await hub.flushed(timeout=0.05) == Flushed(1, 0, 0, 1)
            assert await hub.channel("default").flushed(timeout=0) == Flushed(1, 0, 0, 1)

    run(scenario())


def test_a_frame_that_is_still_in_the_transport_is_pending_until_it_is_written(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
            hub.publish("default", bytes(1024 * 1024))  # one frame, more than the kernel takes
            assert await hub.flushed(timeout=0.05) == Flushed(0, 0, 0, 1)
            assert client.is_writing_paused
            flushing = asyncio.create_task(hub.flushed())
            await asyncio.sleep(0)
            assert await raw.read_payloads(1) == [bytes(1024 * 1024)]
            assert await flushing == Flushed(1, 0, 0, 0)
            assert not client.is_writing_paused

    run(scenario())


def test_flushed_returns_when_a_slow_reader_has_caught_up(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
            published = 0
            while not client.is_writing_paused:
                hub.publish("default", bytes(100_000))
                published += 1
                await asyncio.sleep(0)
            for _ in range(3):
                hub.publish("default", bytes(100_000))
            flushing = asyncio.create_task(hub.flushed())
            await asyncio.sleep(0)
            assert await raw.read_payloads(published + 3) == [bytes(100_000)] * (published + 3)
            assert await flushing == Flushed(1, 0, 0, 0)

    run(scenario())


def test_what_is_published_after_the_call_is_not_waited_for(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", receive_buffer_bytes=4096) as (_, client):
            hub.publish("default", "small")
            flushing = asyncio.create_task(hub.flushed())
            await asyncio.sleep(0)
            await fill(client, lambda: hub.publish("default", bytes(100_000)))
            assert await flushing == Flushed(1, 0, 0, 0)

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
            assert strict.disconnect == (1013, "slow consumer", "server", "slow_consumer")
            # The next one counts those who are there then.
            assert await hub.flushed(timeout=0) == Flushed(1, 0, 0, 1)

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
            assert await flushing == Flushed(written=1, evicted=0, left=1, pending=0)

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
            assert await first == await second == Flushed(1, 0, 0, 0)

    run(scenario())


# stats.


def test_stats_count_what_happened(run):
    async def scenario():
        hub = Hub()
        hub.on_message(lambda client, message: None)
        empty = hub.stats()
        assert empty["disconnects"] == {}
        assert {value for name, value in empty.items() if name != "disconnects"} == {0}
        async with connections(hub, "/a", "/a", "/b") as [(one, _), (two, _), (three, _)]:
            hub.publish("a", bytes(100))
            hub.publish("a", bytes(200))
            hub.publish("b", "x")
            await hub.flushed()
            for raw in (one, two, three):
                await raw.send_frame(TEXT, b"hello")
            await until(lambda: hub.stats()["received_messages"] == 3)
            stats = hub.stats()
            assert stats["clients"] == 3
            assert stats["channels"] == 2
            assert stats["subscriptions"] == 3
            assert stats["published_messages"] == 3
            assert stats["published_bytes"] == 102 + 204 + 3
            assert stats["delivered_messages"] == 5
            assert stats["sent_bytes"] == 2 * 306 + 3
            assert stats["sends"] == 3
            assert stats["refused_sends"] == stats["failed_sends"] == 0
            assert stats["sweeps"] == 2
            assert stats["slices"] >= 1
            await one.send_frame(CLOSE, b"\x03\xe8")
            assert await one.read_payloads(3) == [bytes(100), bytes(200), b"\x03\xe8"]
            await until(lambda: hub.stats()["clients"] == 2)
            assert hub.stats()["disconnects"] == {"client": 1}
            assert hub.stats()["subscriptions"] == 2

    run(scenario())


def test_stats_of_a_slow_reader(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
            published = 0
            while not client.is_writing_paused:
                hub.publish("default", bytes(100_000))
                published += 1
                await asyncio.sleep(0)
            hub.publish("default", bytes(100_000))
            stats = hub.stats()
            assert stats["refused_sends"] == 1
            assert stats["log_bytes"] >= 100_000
            await raw.read_payloads(published + 1)
            await hub.flushed()
            assert hub.stats()["delivered_messages"] == published + 1

    run(scenario())


# client.send.


def test_send_and_publish_arrive_in_program_order(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", "/") as [(raw, client), (other, _)]:
            for number in range(0, 40, 2):
                hub.publish("default", str(number))
                assert client.send(str(number + 1)) is True
            assert await raw.read_payloads(40) == [b"%d" % number for number in range(40)]
            assert await other.read_payloads(20) == [b"%d" % number for number in range(0, 40, 2)]

    run(scenario())


def test_send_keeps_program_order_over_several_channels(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/a") as (raw, client):
            client.subscribe("b")
            hub.publish("b", "b1")
            hub.publish("a", "a1")
            client.send("direct")
            hub.publish("a", "a2")
            payloads = await raw.read_payloads(4)
            assert sorted(payloads[:2]) == [b"a1", b"b1"]
            assert payloads[2:] == [b"direct", b"a2"]

    run(scenario())


def test_a_direct_message_to_a_slow_reader_lands_between_frames(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
            published = 0
            while not client.is_writing_paused:
                hub.publish("default", b"p" * 100_000)
                published += 1
                await asyncio.sleep(0)
            for _ in range(3):
                hub.publish("default", b"p" * 100_000)
                assert client.send(b"d" * 1000) is True
            payloads = await raw.read_payloads(published + 6)
            assert payloads.count(b"p" * 100_000) == published + 3
            assert payloads.count(b"d" * 1000) == 3

    run(scenario())


def test_send_returns_false_once_the_client_is_on_its_way_out(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", "/", "/") as [(raw, closed), (_, aborted), (left, gone)]:
            closed.close()
            assert closed.send("x") is False
            aborted.abort()
            assert aborted.send("x") is False
            left.close()
            await until(lambda: not gone.is_open)
            assert gone.send("x") is False
            with pytest.raises(TypeError):
                closed.send(None)
            await raw.send_frame(CLOSE, b"\x03\xe8")
            assert await raw.read_close() == (1000, "")

    run(scenario())


def test_who_lets_too_much_direct_wait_is_closed_with_1013_after_what_was_taken(run):
    async def scenario():
        hub = Hub(max_direct_bytes=50_000)
        async with connections(hub, "/", "/", receive_buffer_bytes=4096) as [(raw, client), (healthy, _)]:
            sent = []
            while client.send(b"%09d" % len(sent) + bytes(4000)):
                sent.append(len(sent))
            assert client.disconnect == (1013, "slow consumer", "server", "direct_overflow")
            assert client.channels == ()
            await raw.send_frame(CLOSE, (1013).to_bytes(2, "big"))
            frames = await raw.read_to_end()
            assert [int(frame.payload[:9]) for frame in frames[:-1]] == sent
            assert frames[-1] == Frame(CLOSE, (1013).to_bytes(2, "big") + b"slow consumer")
            hub.publish("default", "hello")
            assert await healthy.read_payloads(1) == [b"hello"]
            assert hub.stats()["disconnects"] == {"direct_overflow": 1}

    run(scenario())


def test_direct_messages_that_were_written_do_not_count_against_the_bound(run):
    async def scenario():
        hub = Hub(max_direct_bytes=50_000)
        async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
            total = 0
            for _ in range(5):
                while not client.is_writing_paused:
                    assert client.send(bytes(4000))
                    total += 1
                for _ in range(10):
                    assert client.send(bytes(4000))
                    total += 1
                await raw.read_payloads(total - 1)
                total = 1
                await until(lambda: not client.is_writing_paused)
            assert client.is_open

    run(scenario())


# client.close.


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536, -1, 2**31, 2**64])
def test_a_close_code_that_may_not_be_sent_is_refused(run, code):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/") as (raw, client):
            with pytest.raises(ValueError, match="close code"):
                client.close(code)
            assert client.is_open
            assert client.channels == ("default",)
            hub.publish("default", "still here")
            assert await raw.read_payloads(1) == [b"still here"]

    run(scenario())


@pytest.mark.parametrize("reason", ["x" * 124, "ü" * 62, "\ud800"], ids=["124 bytes", "as UTF-8", "surrogate"])
def test_a_close_reason_that_does_not_fit_is_refused(run, reason):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/") as (raw, client):
            with pytest.raises(ValueError, match=r"125|surrogate"):
                client.close(1000, reason)
            assert client.is_open
            hub.publish("default", "still here")
            assert await raw.read_payloads(1) == [b"still here"]

    run(scenario())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (1000, "")),
        ((1001,), (1001, "")),
        ((3000, "x" * 123), (3000, "x" * 123)),
        ((4999, "bye ü"), (4999, "bye ü")),
    ],
)
def test_close_sends_code_and_reason(run, arguments, expected):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/") as (raw, client):
            client.close(*arguments)
            client.close(4000, "a second time does nothing")
            assert client.disconnect == (*expected, "server", "application")
            hub.publish("default", "not for it")
            await raw.send_frame(CLOSE, b"\x03\xe8")
            assert await raw.read_close() == expected
            await until(lambda: hub.stats()["clients"] == 0)
            client.close()  # nor after the end
            assert hub.stats()["disconnects"] == {"application": 1}

    run(scenario())


def test_a_peer_that_does_not_answer_the_close_is_aborted_after_close_seconds(run):
    async def scenario():
        hub = Hub(close_seconds=0.05)
        async with connections(hub, "/") as (raw, client):
            client.close(4000, "bye")
            assert await raw.read_close() == (4000, "bye")
            await until(lambda: hub.stats()["clients"] == 0)
            assert client.disconnect == (4000, "bye", "server", "application")

    run(scenario())


def test_a_peer_that_does_not_even_read_the_close_is_aborted_too(run):
    async def scenario():
        hub = Hub(close_seconds=0.05)
        async with connections(hub, "/", receive_buffer_bytes=4096) as (_, client):
            await fill(client, lambda: hub.publish("default", bytes(100_000)))
            client.close()
            await until(lambda: hub.stats()["clients"] == 0)

    run(scenario())


def test_the_close_of_a_slow_reader_comes_after_the_frame_it_is_in(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
            hub.publish("default", b"x" * 1_000_000)
            await until(lambda: client.is_writing_paused)
            client.close(4000)
            hub.publish("default", "not for it")
            await raw.send_frame(CLOSE, b"\x03\xe8")
            frames = await raw.read_to_end()
            assert frames == [Frame(BINARY, b"x" * 1_000_000), Frame(CLOSE, (4000).to_bytes(2, "big"))]

    run(scenario())


def test_abort_ends_the_connection_without_a_close(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/") as (raw, client):
            client.abort()
            client.abort()
            client.close()
            assert await raw.read_close() == (None, "")
            await until(lambda: hub.stats()["clients"] == 0)
            assert client.disconnect == (1006, "", "server", "aborted")

    run(scenario())


def test_state_is_the_applications_own(run):
    async def scenario():
        hub = Hub()
        async with connections(hub, "/", "/") as [(_, one), (_, other)]:
            assert one.state == {}
            one.state["name"] = "ada"
            assert one.state == {"name": "ada"}
            assert other.state == {}
            one.identity = "set later"
            assert (one.identity, other.identity) == ("set later", None)

    run(scenario())
