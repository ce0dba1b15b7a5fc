"""Channels: which one a path names, and how long one lives."""

import gc
from contextlib import closing

import pytest
from raw_client import RawClient
from support import connections, subscribed, until

from fastbcast import Channel, Hub, serve

# The path names the channel.


@pytest.mark.parametrize(
    ("path", "channel"),
    [
        ("/", "default"),
        ("//", "default"),
        ("/default", "default"),
        ("/prices", "prices"),
        ("/prices/", "prices"),
        ("/eu/prices", "eu/prices"),
        ("/eu%2Fprices", "eu/prices"),
        ("/a%20b", "a b"),
        ("/a+b", "a+b"),
        ("/%E2%82%AC?x=%ff", "€"),
        ("/Prices", "Prices"),
    ],
)
async def test_the_path_names_the_channel(path, channel):
    hub = Hub()
    async with serve(hub) as server:
        with closing(await RawClient.connect(server.port, path)) as client:
            await subscribed(hub, channel)
            (connected,) = hub.clients()
            assert connected.channel == channel
            assert connected.channels == (channel,)
            hub.publish(channel, "hello")
            assert await client.read_payloads(1) == [b"hello"]


async def test_without_subscribe_path_a_client_is_subscribed_to_nothing():
    hub = Hub()
    hub.on_connect(lambda client: client.send("welcome"))
    async with serve(hub, subscribe_path=False) as server:
        with closing(await RawClient.connect(server.port, "/prices")) as client:
            assert await client.read_payloads(1) == [b"welcome"]
            (connected,) = hub.clients()
            assert connected.channel == "prices"
            assert connected.channels == ()
            assert hub.count_subscribers("prices") == 0


# A channel's life.


async def test_a_channel_that_nobody_needs_is_forgotten():
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


async def test_a_channel_that_the_application_keeps_is_not_forgotten():
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


async def test_a_thousand_channels_come_and_go():
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
