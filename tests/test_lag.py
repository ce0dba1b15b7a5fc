"""How far behind clients are: `client.lag`, `client.missed`, `hub.slowest`, and the sums in `hub.stats()`."""

import asyncio

import pytest
from support import (
    POLICIES,
    SMALL_BUFFERS,
    connections,
    end_turn,
    fall_behind,
    numbered,
    publish_in_turns,
    until,
)

from fastbcast import Hub, Lag, Missed

FRAME_BYTES = 10_004
NO_LAG = Lag(0, 0, 0.0)
# The clock that messages are stamped with may be a tick of the kernel behind; timers are a little early.
TICK_SECONDS = 0.02


def make_hub(**settings):
    hub = Hub()
    hub.configure("*", **{"max_lag_bytes": 10**8, "soft_lag_bytes": 10**8} | settings)
    return hub


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_client_that_keeps_up_has_no_lag(policy):
    hub = make_hub(policy=policy)
    async with connections(hub, "/x") as (raw, client):
        assert client.lag == NO_LAG
        for number in range(10):
            hub.publish("x", numbered(number))
            assert client.lag[:2] == (FRAME_BYTES, 1)  # until the end of the turn
            await raw.read_payloads(1)
            assert client.lag == NO_LAG
        assert client.missed == Missed(0, 0)


@pytest.mark.parametrize("policy", POLICIES)
async def test_lag_counts_what_waits_in_the_log_and_what_the_transport_holds(policy):
    hub = make_hub(policy=policy)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client, key="k")
        rest = client.lag
        assert 0 < rest.bytes <= FRAME_BYTES
        assert rest.messages == 1  # cut, and so not sent
        await publish_in_turns(hub, "x", count + 1, count + 4, key="k")  # also what conflation will pass over
        assert client.lag[:2] == (rest.bytes + 4 * FRAME_BYTES, 5)
        await raw.read_payloads(count + (1 if policy == "conflate" else 4))
        await until(lambda: client.lag == NO_LAG)


@pytest.mark.parametrize("policy", POLICIES)
async def test_lag_says_how_old_the_oldest_message_is_that_was_not_sent(policy):
    hub = make_hub(policy=policy)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        await asyncio.sleep(0.1)
        await publish_in_turns(hub, "x", count + 1, count + 2)
        assert client.lag.seconds >= 0.1 - TICK_SECONDS
        await raw.read_payloads(count + 2)
        await until(lambda: client.lag == NO_LAG)


async def test_a_message_that_follows_the_rest_of_a_frame_has_its_own_age():
    hub = make_hub()
    async with connections(hub, "/x", "/y", **SMALL_BUFFERS) as [(raw, client), (_, other)]:
        direct = 0
        while not client.is_writing_paused:  # full, and nothing of its channel waits
            client.send(numbered(direct))
            direct += 1
        assert client.lag.messages == 0
        assert client.lag.bytes > 0
        assert client.lag.seconds == 0
        hub.publish("x", numbered(1))
        await asyncio.sleep(0.1)
        assert client.lag.messages == 1
        assert client.lag.seconds >= 0.1 - TICK_SECONDS
        hub.publish("y", numbered(1))
        await end_turn()
        assert other.lag == NO_LAG
        await raw.read_payloads(direct + 1)
        await until(lambda: client.lag == NO_LAG)


async def test_lag_is_summed_over_the_channels_of_a_client():
    hub = make_hub()
    hub.configure("c", policy="conflate")
    async with connections(hub, "/a", **SMALL_BUFFERS) as (raw, client):
        client.subscribe("b")
        client.subscribe("c")
        count = await fall_behind(hub, "a", client)
        rest_bytes = client.lag.bytes
        await publish_in_turns(hub, "b", 1, 2)
        await publish_in_turns(hub, "c", 1, 3)
        assert client.lag[:2] == (rest_bytes + 5 * FRAME_BYTES, 1 + 5)
        client.unsubscribe("c")
        assert client.lag[:2] == (rest_bytes + 2 * FRAME_BYTES, 1 + 2)
        await raw.read_payloads(count + 2)
        await until(lambda: client.lag == NO_LAG)


async def test_a_client_that_is_gone_has_no_lag_and_has_missed_what_it_had_missed():
    hub = make_hub(policy="skip", max_lag_bytes=1)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (_, client):
        count = await fall_behind(hub, "x", client)
        await publish_in_turns(hub, "x", count + 1, count + 4)
        assert client.missed == Missed(3, 0)
        client.abort()
        await until(lambda: hub.stats()["clients"] == 0)
        assert (client.lag, client.missed) == (NO_LAG, Missed(3, 0))


async def test_missed_is_summed_over_the_channels_and_begins_anew_with_a_subscription():
    hub = make_hub(policy="latest", max_lag_bytes=1)
    hub.configure("c", policy="conflate", max_lag_bytes=10**8)
    async with connections(hub, "/a", **SMALL_BUFFERS) as (raw, client):
        client.subscribe("c")
        count = await fall_behind(hub, "a", client)
        await publish_in_turns(hub, "a", count + 1, count + 4)
        await publish_in_turns(hub, "c", 1, 3, key="k")
        assert client.missed == Missed(3, 0)  # what is conflated turns out when it reads
        await raw.read_payloads(count + 2)
        await until(lambda: client.lag == NO_LAG)
        assert client.missed == Missed(3, 2)
        assert hub.stats()["skipped_messages"] == 3
        assert hub.stats()["conflated_messages"] == 2
        client.unsubscribe("c")
        assert client.missed == Missed(3, 0)
        client.subscribe("c")
        assert client.missed == Missed(3, 0)


async def test_the_slowest_are_those_whose_sockets_are_full_the_furthest_behind_first():
    hub = make_hub()
    async with connections(hub, "/a", "/b", "/c", "/d", **SMALL_BUFFERS) as pairs:
        assert hub.slowest() == []
        a, b, c, d = [client for _, client in pairs]
        for client, behind in ((b, 2), (c, 5), (a, 3)):
            count = await fall_behind(hub, client.channel, client)
            await publish_in_turns(hub, client.channel, count + 1, count + behind)
        hub.publish("d", "a client that keeps up")
        assert d.lag.bytes  # but its socket is not full
        assert hub.slowest() == [c, a, b]
        assert hub.slowest(2) == [c, a]
        assert hub.slowest(0) == []
        c.close()
        assert hub.slowest() == [a, b]
        a.abort()
        assert hub.slowest() == [b]
        await pairs[1][0].read_payloads(hub.channel("b").seq)
        await until(lambda: not hub.slowest())


# Over all subscriptions.


@pytest.mark.parametrize(
    ("frame_bytes", "bucket"),
    [
        (1024, "1024"),
        (1025, "16384"),
        (16384, "16384"),
        (16385, "65536"),
        (65536, "65536"),
        (65537, "262144"),
        (262_144, "262144"),
        (262_145, "1048576"),
        (1_048_576, "1048576"),
        (1_048_577, "more"),
    ],
)
async def test_a_subscription_is_counted_under_the_least_bound_it_is_within(frame_bytes, bucket):
    hub = Hub(max_message_bytes=2 * 1024 * 1024)
    async with connections(hub, "/x", "/y") as [(raw, _), _]:
        hub.publish("x", bytes(frame_bytes - (4 if frame_bytes - 4 < 65536 else 10)))
        lag = hub.stats()["lag"]
        assert (lag["bytes"], lag["max_bytes"]) == (frame_bytes, frame_bytes)
        assert {name: count for name, count in lag["subscriptions_by_bytes"].items() if count} == {
            "0": 1, bucket: 1,
        }
        await raw.read_payloads(1)
        assert hub.stats()["lag"]["subscriptions_by_bytes"]["0"] == 2


@pytest.mark.parametrize("policy", POLICIES)
async def test_stats_have_the_lag_of_all_subscriptions_in_sum(policy):
    hub = make_hub(policy=policy)
    paths = ["/a", "/a", "/b", "/idle"]
    async with connections(hub, *paths, **SMALL_BUFFERS) as [(raw, healthy), (_, slow), (_, slower), _]:
        count = 0
        while not slow.is_writing_paused:
            count += 1
            hub.publish("a", numbered(count), key="k")
            await raw.read_payloads(1)
        for number in range(2):
            hub.publish("a", numbered(number), key="k")
            await raw.read_payloads(1)
        await until(lambda: healthy.lag == NO_LAG)
        count = await fall_behind(hub, "b", slower)
        await publish_in_turns(hub, "b", count + 1, count + 7)
        lag = hub.stats()["lag"]
        assert (lag["subscriptions_behind"], lag["bytes"], lag["messages"]) == (2, 9 * FRAME_BYTES, 2 + 9)
        assert lag["max_bytes"] == 7 * FRAME_BYTES
        assert {name: count for name, count in lag["subscriptions_by_bytes"].items() if count} == {
            "0": 2, "65536": 1, "262144": 1,
        }
        # The channel's bytes are those in its log; a client's are also those in its Transport.
        assert lag["messages"] == slow.lag.messages + slower.lag.messages
        assert lag["bytes"] < slow.lag.bytes + slower.lag.bytes
        await asyncio.sleep(0.05)
        assert hub.stats()["lag"]["max_seconds"] >= 0.05 - TICK_SECONDS
        slow.abort()
        slower.unsubscribe("b")
        lag = hub.stats()["lag"]
        assert lag.pop("subscriptions_by_bytes")["0"] == 2
        assert set(lag.values()) == {0}


async def test_a_subscription_whose_last_frame_is_cut_is_behind_by_no_bytes_of_the_log():
    hub = make_hub()
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        lag = hub.stats()["lag"]
        assert (lag["subscriptions_behind"], lag["bytes"], lag["messages"]) == (1, 0, 1)
        assert lag["subscriptions_by_bytes"]["0"] == 1
        await raw.read_payloads(count)
        await until(lambda: hub.stats()["lag"]["subscriptions_behind"] == 0)


async def test_the_age_in_stats_is_that_of_the_oldest_message_of_any_channel():
    hub = make_hub()
    async with connections(hub, "/a", "/b", **SMALL_BUFFERS) as [(_, first), (_, second)]:
        await fall_behind(hub, "a", first)
        await asyncio.sleep(0.1)
        await fall_behind(hub, "b", second)
        assert hub.stats()["lag"]["max_seconds"] >= 0.1 - TICK_SECONDS
        before = second.lag.seconds
        assert first.lag.seconds >= before + 0.1 - 2 * TICK_SECONDS
        first.unsubscribe("a")
        await end_turn()
        assert hub.stats()["lag"]["max_seconds"] >= before
