"""Which subscriber is sent a channel's messages in which form; what clients make of it is in test_deflate_*.py."""

import asyncio
import random
import zlib
from contextlib import asynccontextmanager

import pytest
import reference
from raw_client import RawClient, serving
from support import SMALL_BUFFERS, check, client_of, end_turn, fill, subscribed, until

from fastbcast import Hub

DEFLATE = "permessage-deflate"
ALONE = f"{DEFLATE}; server_no_context_takeover"
SMALL = f"{DEFLATE}; server_max_window_bits=9"
RSV1 = 4


class Reader:
    """A client that inflates what it is sent, with one inflater for its whole connection."""

    def __init__(self, raw):
        self.raw = raw
        self.inflater = zlib.decompressobj(wbits=-15)

    async def read(self, count):
        """The next messages: (payload, whether it was compressed)."""
        messages = []
        for frame in await self.raw.read_frames(count):
            payload = frame.payload
            if frame.rsv == RSV1:
                payload = self.inflater.decompress(payload + reference.Inflater.TAIL)
            messages.append((payload, frame.rsv == RSV1))
        return messages


@asynccontextmanager
async def readers(hub, *offers, path="/x", compression="window", **options):
    """Serve `hub` and connect once for each offer (None: without one): gives a Reader for each."""
    async with serving(hub, compression=compression, **options) as server:
        yield [Reader(await join(hub, server.port, offer, path)) for offer in offers]


async def join(hub, port, offer, path="/x", receive_buffer_bytes=None):
    count = hub.count_subscribers(path[1:])
    headers = {} if offer is None else {"Sec_WebSocket_Extensions": offer}
    raw = await RawClient.connect(port, path, receive_buffer_bytes, **headers)
    await subscribed(hub, path[1:], count + 1)
    return raw


@asynccontextmanager
async def slow_reader(hub, offer=DEFLATE):
    """The same for one client that is soon behind: gives its Reader and the Client at the other end."""
    async with serving(hub, compression="window", send_buffer_bytes=SMALL_BUFFERS["send_buffer_bytes"]) as server:
        raw = await join(hub, server.port, offer, receive_buffer_bytes=SMALL_BUFFERS["receive_buffer_bytes"])
        yield Reader(raw), client_of(hub, "x")


def forms(hub):
    check(hub)
    return tuple(hub.stats()["compression"]["subscriptions"].values())


def compressed(hub):
    """How often something was compressed."""
    return hub.stats()["compression"]["messages"]


def tick(number):
    return b'{"type": "trade", "symbol": "ACME", "price": %d.25, "size": 100, "id": %d}' % (100 + number % 7, number)


def make_hub(**settings):
    hub = Hub()
    hub.configure("*", **settings)
    return hub


async def publish(hub, channel, *messages):
    """Publish each in a turn of its own."""
    for message in messages:
        hub.publish(channel, message)
        await end_turn()


@pytest.mark.parametrize(
    ("offers", "compression", "channel", "expected"),
    [
        ((None, None), "window", "window", (2, 0, 0)),
        ((DEFLATE, None), "off", "window", (2, 0, 0)),
        ((DEFLATE, None), "window", "off", (2, 0, 0)),
        ((DEFLATE, SMALL, None), "deflate", "window", (1, 2, 0)),
        ((DEFLATE, SMALL, None), "window", "deflate", (1, 2, 0)),
        ((DEFLATE, DEFLATE, ALONE, SMALL, None), "window", "window", (1, 2, 2)),
    ],
)
async def test_each_gets_the_best_form_of_what_server_channel_and_client_allow(offers, compression, channel, expected):
    hub = make_hub(compression=channel)
    async with readers(hub, *offers, compression=compression) as clients:
        await publish(hub, "x", *map(tick, range(3)))
        assert forms(hub) == expected
        for client in clients:
            assert [payload for payload, _ in await client.read(3)] == [*map(tick, range(3))]


async def test_a_message_is_compressed_once_for_each_lane_however_many_are_there():
    hub = Hub()
    async with readers(hub, None, None) as _:
        await publish(hub, "x", tick(1))
        assert compressed(hub) == 0
    async with readers(hub, *[DEFLATE] * 5, None):
        await publish(hub, "x", tick(1))
        assert compressed(hub) == 1
    async with readers(hub, *[DEFLATE] * 5, *[ALONE] * 5, *[SMALL] * 5, None):
        await publish(hub, "x", tick(1))
        assert compressed(hub) == 1 + 3
    await until(lambda: hub.stats()["clients"] == 0)
    await publish(hub, "x", tick(1))
    assert compressed(hub) == 1 + 3


async def test_what_is_small_or_does_not_shrink_goes_out_as_it_is_but_not_in_a_window_that_has_seen_it():
    hub = make_hub(compress_min_bytes=50)
    noise = random.Random(3).randbytes(200)
    sent = [tick(1), b"-" * 49, b"-" * 50, noise, noise, b"", tick(2)]
    async with readers(hub, DEFLATE, ALONE) as (windowed, alone):
        await publish(hub, "x", *sent)
        assert await windowed.read(7) == list(zip(sent, [True, False, True, True, True, False, True], strict=True))
        assert await alone.read(7) == list(zip(sent, [True, False, True, False, False, False, True], strict=True))


async def test_a_window_begins_anew_when_somebody_waits_and_at_most_so_often():
    hub = make_hub(reset_messages=4)
    async with serving(hub, compression="window") as server:
        resets = lambda: hub.stats()["compression"]["window_resets"]    # noqa: E731
        first = Reader(await join(hub, server.port, DEFLATE))
        assert forms(hub) == (0, 1, 0)
        await publish(hub, "x", *map(tick, range(9)))
        assert (forms(hub), resets()) == ((0, 0, 1), 1)     # nobody waits: the window goes on
        second = Reader(await join(hub, server.port, DEFLATE))
        await publish(hub, "x", tick(9))
        assert (forms(hub), resets()) == ((0, 0, 2), 2)
        third = Reader(await join(hub, server.port, DEFLATE))
        await publish(hub, "x", *map(tick, range(10, 13)))
        assert (forms(hub), resets()) == ((0, 1, 2), 2)     # too soon
        await publish(hub, "x", tick(13))
        assert (forms(hub), resets()) == ((0, 0, 3), 3)
        await publish(hub, "x", tick(14))
        for reader, start in ((first, 0), (second, 9), (third, 10)):
            assert await reader.read(15 - start) == [(tick(number), True) for number in range(start, 15)]


async def test_who_waits_is_taken_along_though_several_messages_come_in_a_turn():
    hub = make_hub(reset_messages=4)
    async with serving(hub, compression="window") as server:
        raws = [await join(hub, server.port, DEFLATE)]
        for turn in range(3):
            if turn == 1:
                raws.append(await join(hub, server.port, DEFLATE))
            for number in range(7):
                hub.publish("x", tick(number))
            await end_turn()
        assert forms(hub) == (0, 0, len(raws))


async def test_a_window_is_given_up_with_its_last_reader_and_its_memory_is_there_for_another():
    hub = Hub(max_window_bytes=80_000)      # room for one
    hub.configure("*", window_bits=13)
    windows = lambda: hub.stats()["compression"]["windows"]     # noqa: E731
    async with serving(hub, compression="window") as server:
        one = await join(hub, server.port, DEFLATE, "/one")
        two = await join(hub, server.port, DEFLATE, "/two")
        await publish(hub, "one", tick(1))
        await publish(hub, "two", tick(1), tick(2))
        assert (forms(hub), windows()) == ((0, 1, 1), 1)
        assert hub.stats()["compression"]["windows_refused"] == 2   # asked for before each message of `two`
        assert 0 < hub.stats()["compression"]["window_bytes"] <= 80_000
        one.close()
        await until(lambda: windows() == 0)
        assert hub.stats()["compression"]["window_bytes"] == 0
        await publish(hub, "two", tick(3))
        assert (forms(hub), windows()) == ((0, 0, 1), 1)
        assert await Reader(two).read(3) == [(tick(number), True) for number in (1, 2, 3)]
    await until(lambda: not hub.channels())
    assert windows() == 0


async def test_a_client_of_two_windowed_channels_gets_both_alone_and_of_one_of_them_the_window():
    hub = make_hub(reset_messages=1)
    hub.configure("alone", compression="deflate")
    hub.configure("off", compression="off")
    async with readers(hub, DEFLATE) as [reader]:
        client = client_of(hub, "x")
        client.subscribe("alone")
        client.subscribe("off")
        total = 0

        async def check_forms(**expected):
            nonlocal total
            for channel in expected:
                await publish(hub, channel, tick(total), tick(total + 1))
                total += 2
            got = await reader.read(2 * len(expected))
            assert [payload for payload, _ in got] == [*map(tick, range(total - len(got), total))]
            assert {name: hub.channel(name).subscribers_by_form for name in expected} == expected
            check(hub)

        plain, alone, windowed = (1, 0, 0), (0, 1, 0), (0, 0, 1)
        await check_forms(x=windowed, alone=plain, off=plain)
        client.subscribe("y")
        await check_forms(x=alone, alone=alone, off=plain, y=alone)
        client.subscribe("z")
        client.unsubscribe("x")
        await check_forms(alone=alone, off=plain, y=alone, z=alone)
        client.unsubscribe("z")
        await check_forms(alone=plain, off=plain, y=windowed)
        client.unsubscribe("y")
        await check_forms(alone=alone, off=plain)


async def test_a_client_that_is_behind_on_its_window_gets_the_others_plain_until_it_has_left_it():
    hub = make_hub(max_lag_bytes=10**8, soft_lag_bytes=10**8)
    noise = random.Random(5).randbytes(20_000)
    async with slow_reader(hub) as (reader, client):
        sent = []

        def publish_noise(channel="x"):
            sent.append(noise + b"%d" % len(sent))
            hub.publish(channel, sent[-1])

        await fill(client, publish_noise)
        publish_noise()
        await end_turn()
        client.subscribe("y")
        assert hub.channel("x").subscribers_by_form == (0, 0, 1)
        assert hub.channel("y").subscribers_by_form == (1, 0, 0)
        publish_noise("y")
        got = await reader.read(len(sent))
        assert sorted(payload for payload, _ in got) == sorted(sent)    # of two channels: no order between them
        await end_turn()
        publish_noise()
        assert hub.channel("x").subscribers_by_form == (0, 1, 0)
        publish_noise("y")
        assert hub.channel("y").subscribers_by_form == (0, 1, 0)
        assert [payload for payload, _ in await reader.read(2)] == sent[-2:]
        check(hub)


@pytest.mark.parametrize("policy", ["skip", "latest"])
async def test_a_skipper_goes_on_plain_and_is_back_in_the_window_when_that_begins_anew(policy):
    hub = make_hub(policy=policy, max_lag_bytes=100_000, soft_lag_bytes=10**8, max_burst_bytes=0, reset_messages=1)
    generator = random.Random(6)
    async with slow_reader(hub) as (reader, client):
        sent = []

        def publish_noise():
            sent.append(b"%08d" % len(sent) + generator.randbytes(10_000))
            hub.publish("x", sent[-1])

        await fill(client, publish_noise)
        while client.missed.skipped == 0:
            publish_noise()
            await end_turn()
        assert hub.channel("x").subscribers_by_form == (1, 0, 0)
        got = []
        while not got or got[-1][0] != sent[-1]:
            got += await reader.read(1)
        assert [sent.index(payload) for payload, _ in got] == sorted({sent.index(payload) for payload, _ in got})
        assert {is_compressed for _, is_compressed in got} == {True, False}
        assert len(got) == len(sent) - client.missed.skipped
        await publish(hub, "x", tick(1), tick(2))
        assert hub.channel("x").subscribers_by_form == (0, 0, 1)
        assert await reader.read(2) == [(tick(1), True), (tick(2), True)]


async def test_what_is_small_in_a_window_does_not_hold_more_than_the_limit_in_the_plain_lane():
    """A subscriber may be within its limit in the window, and a hundred times as far behind in plain bytes."""

    hub = make_hub(policy="skip", max_lag_bytes=200_000, soft_lag_bytes=10**8, max_burst_bytes=0)
    generator = random.Random(8)
    async with slow_reader(hub) as (reader, client):
        await fill(client, lambda: hub.publish("x", generator.randbytes(10_000)))
        for number in range(300):
            await publish(hub, "x", b"%d" % number + b"." * 10_000)
        assert client.missed.skipped == 0
        assert client.lag.messages > 290
        assert hub.channel("x").subscribers_by_form == (0, 0, 1)
        assert hub.stats()["log_bytes"] < 200_000 + 4 * 65_536
        check(hub)
        while client.missed.skipped == 0:
            await publish(hub, "x", generator.randbytes(10_000))
        assert hub.channel("x").subscribers_by_form == (1, 0, 0)
        check(hub)
        assert reader


@pytest.mark.parametrize("size", [60_000, 500_000])
async def test_what_is_large_and_small_in_a_window_takes_the_memory_of_what_is_small(size):
    """Room is reserved for what would not shrink; the limits count what is there."""

    hub = make_hub()
    generator = random.Random(12)
    async with slow_reader(hub) as (reader, client):
        sent = []

        def keep(message):
            sent.append(message)
            return message

        await fill(client, lambda: hub.publish("x", keep(generator.randbytes(10_000))))
        before = hub.stats()["log_bytes"]
        await publish(hub, "x", *(keep(b"%d" % number + b"." * size) for number in range(50)))
        assert hub.channel("x").subscribers_by_form == (0, 0, 1)
        assert hub.stats()["log_bytes"] - before < 2 * 65_536 + 2 * size
        check(hub)
        assert [payload for payload, _ in await reader.read(len(sent))] == sent


@pytest.mark.parametrize("policy", ["skip", "latest"])
async def test_who_has_been_over_the_soft_limit_of_a_window_jumps_to_the_newest_message_though_it_is_above_all_limits(
    policy
):
    """In the window all three are within the limit; in plain bytes not one is."""

    hub = make_hub(policy=policy, max_lag_bytes=50_000, max_burst_bytes=0, soft_lag_bytes=100, soft_lag_seconds=0.3)
    generator = random.Random(10)
    async with slow_reader(hub) as (reader, client):
        await fill(client, lambda: hub.publish("x", generator.randbytes(10_000)))
        large = [b"%d" % number + b"." * 60_000 for number in range(3)]
        await publish(hub, "x", *large)
        check(hub)
        await until(lambda: client.missed.skipped == 2)     # nothing more is published
        assert hub.channel("x").subscribers_by_form == (1, 0, 0)
        check(hub)
        while (await reader.read(1))[0] != (large[2], False):
            pass


@pytest.mark.parametrize("offer", [DEFLATE, ALONE, SMALL])
async def test_a_backlog_of_large_messages_takes_what_their_compressed_frames_take(offer):
    """What may be needed at most is reserved before a message is compressed, and must not be kept."""

    hub = make_hub(max_lag_bytes=10**8, soft_lag_bytes=10**8)
    generator = random.Random(11)
    async with slow_reader(hub, offer) as (reader, client):
        await fill(client, lambda: hub.publish("x", generator.randbytes(10_000)))
        large = [b"%d" % number + b"." * 60_000 * (1 + number % 2) for number in range(50)]
        await publish(hub, "x", *large)
        check(hub)
        assert client.lag.messages > 49
        assert client.lag.bytes < 50 * 1000
        assert hub.stats()["log_bytes"] == hub.channel("x").log_bytes < client.lag.bytes + 2 * 65_536
        while (await reader.read(1))[0][0] != large[0]:
            pass
        assert [payload for payload, _ in await reader.read(49)] == large[1:]
        await end_turn()
        check(hub)


async def test_readers_of_the_compact_log_get_each_message_compressed_once_for_all():
    hub = make_hub(policy="conflate", max_messages_per_second=20, compress_min_bytes=10)
    async with readers(hub, DEFLATE, DEFLATE, SMALL, None) as clients:
        noise = random.Random(9).randbytes(100)
        sent = [tick(1), b"small", noise, "é".encode() * 50_000]
        for key, message in enumerate(sent):
            hub.publish("x", message, key=key)
        for client, expected in zip(clients, [[True, False, False, True]] * 2 + [[False] * 4] * 2, strict=True):
            assert await client.read(4) == list(zip(sent, expected, strict=True))
        assert compressed(hub) == 3
        assert forms(hub) == (4, 0, 0)
        size = hub.channel("x").log_bytes
        for key in range(4):
            hub.forget("x", key)
        assert size > hub.channel("x").log_bytes == hub.stats()["log_bytes"] == 0
        check(hub)


async def test_compressed_forms_of_a_compact_log_are_kept_as_long_as_there_is_room_beside_the_keys():
    hub = Hub(max_log_bytes=2 * 25_000)     # half of it for keys
    hub.configure("x", policy="conflate", max_messages_per_second=20, compress_min_bytes=10)
    text = b"".join(b"%d" % (number * number) for number in range(1700))[:10_000]  # about half of it is left
    async with readers(hub, DEFLATE) as [client]:
        for key in range(2):
            hub.publish("x", text, key=key)
        hub.publish("x", tick(1), key=2)
        got = [await client.read(1) for _ in range(3)]
        assert [payload for [(payload, _)] in got] == [text, text, tick(1)]
        assert [is_compressed for [(_, is_compressed)] in got] == [False, False, True]
        check(hub)


async def test_a_reader_of_the_compact_log_on_another_window_gets_it_plain():
    hub = make_hub(reset_messages=1)
    hub.configure("y", policy="conflate", max_messages_per_second=20)
    async with readers(hub, DEFLATE) as [reader]:
        client = client_of(hub, "x")
        client.subscribe("y")
        await publish(hub, "x", tick(1), tick(2))
        hub.publish("y", tick(3), key=1)
        assert await reader.read(3) == [(tick(1), True), (tick(2), True), (tick(3), False)]
        await publish(hub, "x", tick(4))
        assert await reader.read(1) == [(tick(4), True)]
        client.unsubscribe("x")
        hub.publish("y", tick(5), key=1)
        assert await reader.read(1) == [(tick(5), True)]


async def test_who_was_behind_on_a_conflating_channel_returns_to_its_window():
    hub = make_hub(policy="conflate", reset_messages=1)
    generator = random.Random(10)
    async with slow_reader(hub) as (reader, client):
        sent = []

        def publish_noise():
            sent.append(generator.randbytes(10_000))
            hub.publish("x", sent[-1], key=len(sent) % 5)

        await fill(client, publish_noise)
        for _ in range(20):
            publish_noise()
            await end_turn()
        assert hub.channel("x").subscribers_by_form == (1, 0, 0)
        check(hub)
        got = []
        while not got or got[-1] != sent[-1]:
            got += [payload for payload, _ in await reader.read(1)]
        assert got[-5:] == sent[-5:]
        assert len(got) == len(sent) - client.missed.conflated
        await publish(hub, "x", tick(1), tick(2))
        assert hub.channel("x").subscribers_by_form == (0, 0, 1)
        assert await reader.read(2) == [(tick(1), True), (tick(2), True)]


async def test_who_comes_to_an_idle_channel_and_goes_leaves_nothing():
    hub = Hub()
    channel = hub.channel("x")
    async with serving(hub, compression="window") as server:
        for offer in (DEFLATE, ALONE, SMALL, None):
            raw = await join(hub, server.port, offer)
            hub.publish("x", tick(1))
            raw.close()
            await until(lambda: channel.subscribers == 0)
            hub.publish("x", tick(2))
            assert (hub.stats()["log_bytes"], hub.stats()["compression"]["window_bytes"]) == (0, 0)
            check(hub)
    assert channel.seq == 8
    await asyncio.sleep(0)
