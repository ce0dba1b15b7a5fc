"""permessage-deflate against the strict client of deflate_client.py: what each client gets, and in which form."""

import json
import random
from contextlib import AsyncExitStack, closing

import pytest
from deflate_client import DEFAULT_OFFER, MOST_WINDOW_BITS, DeflateClient
from deflate_feed import LAST, make_chained, make_messages, make_ticks
from deflate_play import assert_same
from raw_client import serving
from support import SMALL_BUFFERS, end_turn, until

from fastbcast import Hub

RESET_MESSAGES = 8
BITS = range(9, MOST_WINDOW_BITS + 1)
OFFERS = [
    DEFAULT_OFFER,
    "permessage-deflate",
    "permessage-deflate; server_no_context_takeover",
    "permessage-deflate; client_no_context_takeover",
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=10",
    "permessage-deflate; server_no_context_takeover; server_max_window_bits=9; client_max_window_bits=9",
    *(f"permessage-deflate; server_max_window_bits={bits}" for bits in BITS),
    *(f"permessage-deflate; client_max_window_bits={bits}" for bits in BITS),
    *(f"permessage-deflate; server_max_window_bits={bits}; client_max_window_bits={24 - bits}" for bits in BITS),
]
WINDOW_BITS = 13
PATIENT = {"max_lag_bytes": 2**30, "soft_lag_bytes": 2**30, "max_burst_bytes": 2**30}


def make_hub(**options):
    hub = Hub()
    hub.configure("*", reset_messages=RESET_MESSAGES, **options)
    return hub


async def publish(hub, channel, messages, **options):
    """Each in a turn of its own."""
    for message in messages:
        hub.publish(channel, message, **options)
        await end_turn()


def payloads(messages):
    return [message.payload for message in messages]


def forms(messages):
    return {message.form for message in messages}


async def get_on_window(hub, client, channel="feed"):
    """Publish until `client`, who reads everything, gets a message that refers to an earlier one."""
    for tick in make_ticks("get on", 4 * RESET_MESSAGES):
        hub.publish(channel, tick)
        if (await client.read_to(tick))[-1].form == "windowed":
            return
    raise AssertionError(f"not on the window after {4 * RESET_MESSAGES} messages")


# Every offer, both ways.


@pytest.mark.parametrize(
    ("compression", "client_no_context_takeover"),
    [("off", True), ("deflate", True), ("deflate", False), ("window", True), ("window", False)],
)
def test_every_offer_gets_every_byte_and_what_it_sends_arrives(run, compression, client_no_context_takeover):
    async def scenario():
        hub, received = make_hub(), {}
        hub.authorize(lambda request: int(request.query))
        hub.on_message(lambda client, message: received.setdefault(client.identity, []).append(message))
        messages = make_messages(1, 80, 2000)
        options = {"compression": compression, "client_no_context_takeover": client_no_context_takeover}
        async with serving(hub, **options) as server, AsyncExitStack() as stack:
            clients = [
                stack.enter_context(closing(await DeflateClient.connect(server.port, f"/feed?{number}", offer=offer)))
                for number, offer in enumerate(OFFERS)
            ]
            await publish(hub, "feed", messages)
            for client, offer in zip(clients, OFFERS, strict=True):
                assert_same(payloads(await client.read_to(LAST)), messages, offer)
                check_form(client, offer)
            for number, client in enumerate(clients):
                for message in messages:
                    await client.send_message(message, is_compressed=client.parameters is not None)
                await until(lambda number=number: LAST in received.get(number, []))
                assert_same(received[number], messages, OFFERS[number])

    def check_form(client, offer):
        forms = client.reader.forms
        if compression == "off":
            assert client.parameters is None
            assert forms.keys() == {"plain"}
            return
        parameters = client.parameters
        assert parameters.client_no_context_takeover or not client_no_context_takeover
        may_window = not parameters.server_no_context_takeover and parameters.server_max_window_bits >= WINDOW_BITS
        assert forms["alone"] > 0, offer
        assert (forms["windowed"] > 30) is (compression == "window" and may_window), offer

    run(scenario())


async def test_a_client_that_offers_nothing_gets_everything_as_it_is_beside_one_on_the_window():
    hub, messages = make_hub(), make_messages(2, 100)
    async with serving(hub, compression="window") as server:
        one = await DeflateClient.connect(server.port, "/feed", offer=None)
        other = await DeflateClient.connect(server.port, "/feed")
        await publish(hub, "feed", messages)
        assert_same(payloads(await one.read_to(LAST)), messages, "plain")
        assert_same(payloads(await other.read_to(LAST)), messages, "window")
        assert one.parameters is None
        assert one.reader.forms.keys() == {"plain"}
        assert other.reader.forms["windowed"] > 50


async def test_a_window_makes_ticks_much_smaller_than_each_alone():
    hub, ticks = Hub(), make_ticks(3, 500)
    async with serving(hub, compression="window") as server:
        window = await DeflateClient.connect(server.port, "/feed")
        alone = await DeflateClient.connect(server.port, "/feed", offer=OFFERS[2])
        await publish(hub, "feed", ticks)
        assert payloads(await window.read_messages(len(ticks))) == ticks
        assert payloads(await alone.read_messages(len(ticks))) == ticks
        assert alone.reader.wire_bytes < 0.9 * alone.reader.payload_bytes
        assert window.reader.wire_bytes < 0.5 * alone.reader.wire_bytes


async def test_over_tls(tls):
    hub, messages = make_hub(), make_messages(4, 100)
    async with serving(hub, compression="window") as server:
        clients = [await DeflateClient.connect(server.port, "/feed", offer=offer) for offer in OFFERS[:3]]
        await publish(hub, "feed", messages)
        for client in clients:
            assert_same(payloads(await client.read_to(LAST)), messages, "tls")
        assert clients[0].reader.forms["windowed"] > 50
        assert clients[2].reader.forms.keys() == {"plain", "alone"}


@pytest.mark.parametrize("compression", ["deflate", "window"])
def test_the_largest_message_passes_both_ways(run, compression):
    async def scenario():
        hub, received = make_hub(**PATIENT), []
        hub.on_message(lambda client, message: received.append(message))
        size = hub.options.max_message_bytes
        # What does not shrink becomes a little longer, and what is longer than the limit as it comes is refused.
        large = ["x" * size, (json.dumps(make_ticks(5, 9000)) * 2)[:size], random.Random(5).randbytes(size - 1024)]
        assert list(map(len, large)) == [size, size, size - 1024]
        async with serving(hub, compression=compression, client_no_context_takeover=False) as server:
            client = await DeflateClient.connect(server.port, "/feed")
            await get_started(hub, client)
            for message in large:
                hub.publish("feed", message)
                hub.publish("feed", "between")
                assert_same(payloads(await client.read_to("between")), [message, "between"], "large")
            assert client.reader.wire_bytes < client.reader.payload_bytes / 2
            for message in large:
                await client.send_message(message)
            await until(lambda: len(received) == len(large))
            assert_same(received, large, "sent")

    async def get_started(hub, client):
        if compression == "window":
            await get_on_window(hub, client)

    run(scenario())


# Whatever else a client on a window receives.


BESIDE = {
    "off": {"compression": "off"},
    "alone": {"compression": "deflate"},
    "large": {"window_bits": 15},                       # a window that the client cannot follow
    "paced": {"max_messages_per_second": 10_000},       # from the compact log
}


@pytest.mark.parametrize("beside", BESIDE)
async def test_what_else_a_client_on_a_window_receives_is_not_compressed(beside):
    hub, direct = make_hub(), make_ticks(6, 20 if beside != "paced" else 4)
    hub.configure("beside", **BESIDE[beside])
    async with serving(hub, compression="window") as server:
        offer = f"{DEFAULT_OFFER}; server_max_window_bits=14" if beside == "large" else DEFAULT_OFFER
        raw = await DeflateClient.connect(server.port, "/feed", offer=offer)
        client = next(hub.clients())
        client.subscribe("beside")
        await get_on_window(hub, raw)
        for number, tick in enumerate(direct):
            client.send(tick)
            client.send(tick.encode())
            hub.publish("beside", "beside " + tick)
            hub.publish("feed", tick)
            hub.publish("feed", f"end {number}, {tick}")
            messages = await raw.read_messages(5)
            # No order is promised across channels.
            others = [message for message in messages if message.form == "plain"]
            assert payloads(others) == [tick, tick.encode(), "beside " + tick]
            assert payloads(message for message in messages if message.form != "plain") == [
                tick, f"end {number}, {tick}"
            ]
        assert raw.reader.forms["windowed"] >= 2 * len(direct)


async def test_small_messages_are_not_compressed_and_leave_the_window_as_it_is():
    hub = make_hub(compress_min_bytes=32)
    async with serving(hub, compression="window") as server:
        raw = await DeflateClient.connect(server.port, "/feed")
        await get_on_window(hub, raw)
        for number, tick in enumerate(make_ticks(7, 50)):
            sent = ["", b"", tick[:31], tick[:31].encode(), tick[: number % 32], tick]
            await publish(hub, "feed", sent)
            messages = await raw.read_to(tick)
            assert payloads(messages) == sent
            assert forms(messages[:-1]) == {"plain"}
        assert raw.reader.forms["windowed"] > 30


async def test_a_client_with_two_windowed_channels_gets_each_message_alone_and_a_window_again_when_it_leaves_one():
    hub, ticks = make_hub(), make_ticks(8, 40)
    async with serving(hub, compression="window") as server:
        raw = await DeflateClient.connect(server.port, "/one")
        client = next(hub.clients())
        steady = await DeflateClient.connect(server.port, "/one")
        for other in ("two", "three"):
            await get_on_window(hub, raw, "one")
            client.subscribe(other)
            for tick in ticks:
                hub.publish("one", tick)
                await end_turn()
                hub.publish(other, tick + other)
                await end_turn()
            messages = await raw.read_messages(2 * len(ticks))
            assert [text for text in payloads(messages) if not text.endswith(other)] == ticks
            assert [text for text in payloads(messages) if text.endswith(other)] == [tick + other for tick in ticks]
            assert forms(messages) == {"alone"}
            client.unsubscribe(other)
        # And leaving the first, while being on the second, ends on the second's window.
        client.subscribe("two")
        client.unsubscribe("one")
        await get_on_window(hub, raw, "two")
        hub.publish("one", LAST)
        messages = await steady.read_to(LAST)
        assert payloads(messages).count(ticks[0]) == 2
        assert steady.reader.forms["windowed"] > len(ticks)


def test_a_channel_that_a_client_joins_again_is_windowed_again(run):
    async def scenario():
        hub, ticks = make_hub(), make_ticks(9, 60)
        async with serving(hub, compression="window") as server:
            raw = await DeflateClient.connect(server.port, "/feed")
            client = next(hub.clients())
            steady = await DeflateClient.connect(server.port, "/feed")
            for _ in range(3):
                await get_on_window(hub, raw)
                client.unsubscribe("feed")
                await publish(hub, "feed", ticks)
                client.subscribe("feed")
                await publish(hub, "feed", ticks)
                messages = await raw.read_to(ticks[-1])
                assert payloads(messages) == ticks
                assert messages[0].form == "alone"
                assert messages[-1].form == "windowed"
            assert {"alone", "windowed"} == set(steady_forms(await steady.ping()))

    def steady_forms(messages):
        return [message.form for message in messages]

    run(scenario())


async def test_the_lesser_of_what_the_server_and_the_channel_allow_is_done():
    hub, ticks = make_hub(), make_ticks(10, 40)
    hub.configure("off", compression="off")
    hub.configure("alone", compression="deflate")
    async with serving(hub, compression="window") as window, serving(hub, compression="deflate") as deflate:
        for server, channel, expected in [
            (window, "off", {"plain"}), (window, "alone", {"alone"}), (window, "feed", {"alone", "windowed"}),
            (deflate, "off", {"plain"}), (deflate, "alone", {"alone"}), (deflate, "feed", {"alone"}),
        ]:
            raw = await DeflateClient.connect(server.port, f"/{channel}")
            await publish(hub, channel, ticks)
            messages = await raw.read_messages(len(ticks))
            assert payloads(messages) == ticks
            assert forms(messages) == expected, channel


# Clients that are behind.


async def fall_behind(hub, client, seed, more=0):
    """Publish messages that refer to one another until the kernel refuses them, and `more`; returns what it was."""
    published = []
    while more or not client.is_writing_paused:
        more -= client.is_writing_paused
        published.append(make_chained(seed, len(published)))
        hub.publish("feed", published[-1])
        await end_turn()
    return published


def assert_subsequence(received, published):
    """Every message that was received was published, in this order."""
    rest = iter(published)
    for number, message in enumerate(received):
        assert any(message == other and type(message) is type(other) for other in rest), f"message {number}"


@pytest.mark.parametrize("policy", ["evict", "skip", "latest"])
async def test_a_client_that_was_behind_is_on_the_window_again(policy):
    limits = PATIENT if policy == "evict" else {"max_lag_bytes": 20_000, "max_burst_bytes": 0}
    hub, published = make_hub(policy=policy, **limits), []
    async with serving(hub, compression="window", send_buffer_bytes=8192) as server:
        raw = await DeflateClient.connect(server.port, "/feed", SMALL_BUFFERS["receive_buffer_bytes"])
        client = next(hub.clients())
        steady = await DeflateClient.connect(server.port, "/feed")
        for seed in range(3):
            await get_on_window(hub, raw)
            await steady.ping()
            # At the end it goes on in the middle of them.
            published = await fall_behind(hub, client, seed, more=10)
            hub.publish("feed", LAST)
            published.append(LAST)
            received = payloads(await raw.read_to(LAST))
            if policy == "evict":
                assert_same(received, published, "it went on")
            else:
                assert_subsequence(received, published)
                assert len(received) < len(published)
            assert_subsequence(payloads(await steady.read_to(LAST)), published)
        await get_on_window(hub, raw)
        assert (client.missed.skipped > 0) is (policy != "evict")


async def test_a_conflating_channel_gives_the_newest_of_each_key():
    hub, keys, rng = make_hub(policy="conflate"), ["a", "b", "c", None], random.Random(12)
    async with serving(hub, compression="window", send_buffer_bytes=8192) as server:
        raw = await DeflateClient.connect(server.port, "/feed", SMALL_BUFFERS["receive_buffer_bytes"])
        client = next(hub.clients())
        steady = await DeflateClient.connect(server.port, "/feed")
        for seed in range(3):
            await get_on_window(hub, raw)
            await steady.ping()
            published, newest = await fall_behind(hub, client, seed), {}
            for tick in make_ticks(seed, 200):
                key = rng.choice(keys)
                newest[key] = tick
                hub.publish("feed", tick, key=key)
                published.append(tick)
                await end_turn()
            hub.publish("feed", LAST)
            received = payloads(await raw.read_to(LAST))
            assert_subsequence(received, [*published, LAST])
            assert {newest[key] for key in keys} <= set(received)
            assert client.missed.conflated > 0
            assert_subsequence(payloads(await steady.read_to(LAST)), [*published, LAST])
        await get_on_window(hub, raw)
