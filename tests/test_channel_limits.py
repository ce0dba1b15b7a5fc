"""How many channels there may be, and that nothing keeps one that nobody needs."""

import asyncio
import gc
import weakref

import pytest
from raw_client import RawClient, ask, handshake, serving
from support import connections, raw_connections, stall, subscribed, until

from fastbcast import Flushed, Hub, TooManyChannels

BUFFERS = {"send_buffer_bytes": 16 * 1024, "notsent_lowat_bytes": 4 * 1024, "receive_buffer_bytes": 4096}

# max_channels.


def test_a_channel_too_many_raises_and_one_that_goes_makes_room():
    hub = Hub(max_channels=2)
    kept = [hub.channel("a"), hub.channel("b")]
    for make in (hub.channel, lambda name: hub.publish(name, "x")):
        with pytest.raises(TooManyChannels) as caught:
            make("c")
        assert (caught.value.name, caught.value.max_channels) == ("c", 2)
        assert str(caught.value) == "no channel 'c': there are max_channels=2 already"
    assert hub.channel("a") is kept[0]
    assert hub.publish("b", "x") == 1
    del kept[0]
    assert hub.publish("c", "x") == 1  # nobody keeps this one
    assert hub.channel("d").name == "d"
    assert hub.stats()["channels"] == 1


async def test_what_another_thread_publishes_to_a_channel_too_many_is_logged_and_the_rest_is_sent(caplog):
    hub = Hub(max_channels=1)
    async with raw_connections(hub, "/a") as raw:
        await subscribed(hub, "a")
        for channel in ("b", "a"):
            await asyncio.to_thread(hub.publish_threadsafe, channel, f"to {channel}")
        assert await raw.read_payloads(1) == [b"to a"]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("fastbcast", "ERROR")
    assert (record.event, record.channel) == ("queued_message_lost", "b")
    assert "max_channels=1" in record.reason


async def test_a_path_that_would_make_a_channel_too_many_is_refused_with_503():
    hub = Hub(max_channels=1)
    async with serving(hub) as server:
        first = await RawClient.connect(server.port, "/a")
        status, _, body = await ask(server.port, handshake("/b"))
        assert (status, body) == (503, b"too many channels\n")
        assert server.responses == {101: 1, 503: 1}
        second = await RawClient.connect(server.port, "/a")
        await subscribed(hub, "a", 2)
        hub.publish("a", "still served")
        assert await first.read_payloads(1) == await second.read_payloads(1) == [b"still served"]
        first.close()
        second.close()
        await until(lambda: hub.stats()["channels"] == 0)
        await RawClient.connect(server.port, "/b")
        await subscribed(hub, "b")


async def test_subscribing_in_on_connect_to_a_channel_too_many_raises_and_leaves_the_client_as_it_was():
    hub = Hub(max_channels=1)

    @hub.on_connect
    def _(client):
        with pytest.raises(TooManyChannels):
            client.subscribe("extra")
        assert client.channels == ("a",)
        client.unsubscribe("a")
        assert client.subscribe("extra") is True

    async with raw_connections(hub, "/a") as raw:
        await subscribed(hub, "extra")
        hub.publish("extra", "in the room that was made")
        assert await raw.read_payloads(1) == [b"in the room that was made"]
        assert hub.stats()["disconnects"] == {}


# Channels come and go.


@pytest.mark.parametrize("settings", [{}, {"policy": "skip"}, {"policy": "conflate"}], ids=str)
async def test_nothing_keeps_a_channel_whose_last_client_has_gone(settings):
    """Neither the sweep, nor the watch of full sockets, nor who asked what became of a message."""

    hub = Hub()
    hub.configure("x", **settings)
    async with connections(hub, "/x", **BUFFERS) as (_, client):
        channel = weakref.ref(hub.channel("x"))
        await stall(hub, "x")
        assert await hub.flushed(timeout=0) == Flushed(pending=1)
        asking = [asyncio.create_task(hub.flushed()), asyncio.create_task(channel().flushed())]
        given_up = [asyncio.create_task(hub.flushed())]
        await asyncio.sleep(0)
        given_up.append(asyncio.create_task(hub.flushed()))  # and that one never begins to wait
        for task in given_up:
            task.cancel()
        hub.publish("x", "one more")
        gc.disable()  # reference counts alone must do it
        try:
            assert client.unsubscribe("x")
            assert await asyncio.gather(*asking) == [Flushed(left=1)] * 2
            await asyncio.wait(given_up)
            asking = given_up = task = None
            await asyncio.sleep(0)
            assert channel() is None
        finally:
            gc.enable()
        assert hub.stats()["log_bytes"] == 0


@pytest.mark.parametrize(
    "settings", [{"policy": "conflate", "max_messages_per_second": 0.01}, {"coalesce_seconds": 100}], ids=str
)
async def test_a_timer_does_not_keep_a_channel_whose_last_client_has_gone(settings):
    hub = Hub()
    hub.configure("x", **settings)
    async with connections(hub, "/x") as (_, client):
        channel = weakref.ref(hub.channel("x"))
        for key in range(3):
            hub.publish("x", "now or at the next release", key=key)
            await asyncio.sleep(0)
        assert client.unsubscribe("x")
        await asyncio.sleep(0)
        assert channel() is None
        assert hub.stats()["log_bytes"] == 0
