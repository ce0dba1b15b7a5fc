"""Policies: what becomes of a client that is too far behind, on real sockets."""

import asyncio

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
    numbered,
    numbers,
    publish_in_turns,
    until,
)

from fastbcast import Disconnect, Hub, Missed

MESSAGE_BYTES = 10_000
FRAME_BYTES = MESSAGE_BYTES + 4
SLOW_CONSUMER = Disconnect(1013, "slow consumer", "server", "slow_consumer")


def make_hub(policy, pattern="x", **settings):
    """A hub whose limits are those given, and otherwise out of reach."""
    hub = Hub()
    hub.configure(pattern, policy=policy, **{"max_lag_bytes": 10**8, "soft_lag_bytes": 10**8} | settings)
    return hub


# The hard limit. Lag counts from the end of the turn in which the client fell behind.


@pytest.mark.parametrize(("max_lag_bytes", "kept"), [(3 * FRAME_BYTES, 3), (3 * FRAME_BYTES - 1, 2), (FRAME_BYTES, 1)])
async def test_a_skipper_goes_on_with_the_oldest_message_within_the_limit(max_lag_bytes, kept):
    hub = make_hub("skip", max_lag_bytes=max_lag_bytes)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        await publish_in_turns(hub, "x", count + 1, count + 1 + kept)
        assert client.missed == Missed(0, 0)  # at the limit, not above it: the first was a burst of one
        await publish_in_turns(hub, "x", count + 2 + kept, count + 10)
        check(hub)
        assert client.missed == Missed(10 - kept, 0)
        expected = [*range(1, count + 1), *range(count + 11 - kept, count + 11)]
        assert numbers(await raw.read_payloads(len(expected))) == expected
        assert hub.stats()["skipped_messages"] == 10 - kept
        assert hub.stats()["jumps"] == 10 - 1 - kept
        assert client.is_open


async def test_a_client_with_the_latest_policy_goes_on_with_the_newest_message():
    hub = make_hub("latest", max_lag_bytes=3 * FRAME_BYTES)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        await publish_in_turns(hub, "x", count + 1, count + 4)
        assert client.missed == Missed(0, 0)
        await publish_in_turns(hub, "x", count + 5, count + 5)
        check(hub)
        assert client.missed == Missed(4, 0)
        expected = [*range(1, count + 1), count + 5]
        assert numbers(await raw.read_payloads(len(expected))) == expected
        assert (hub.stats()["skipped_messages"], hub.stats()["jumps"]) == (4, 1)


async def test_a_client_above_the_limit_is_evicted_where_the_policy_says_so():
    hub = make_hub("evict", max_lag_bytes=3 * FRAME_BYTES)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        await publish_in_turns(hub, "x", count + 1, count + 4)
        assert client.is_open
        await publish_in_turns(hub, "x", count + 5, count + 5)
        assert client.disconnected == SLOW_CONSUMER
        assert hub.channel("x").subscribers == 0
        frames = await raw.read_to_close()
        assert numbers(frame.payload for frame in frames[:-1]) == [*range(1, count + 1)]
        assert (frames[-1].opcode, frames[-1].payload) == (CLOSE, close_payload(1013, "slow consumer"))


@pytest.mark.parametrize("policy", ["skip", "latest"])
async def test_the_newest_message_is_never_skipped_however_large_it_is(policy):
    hub = make_hub(policy, max_lag_bytes=FRAME_BYTES)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        await publish_in_turns(hub, "x", count + 1, count + 3)
        hub.publish("x", numbered(count + 4, 300_000))
        await end_turn()
        assert client.missed == Missed(3, 0)
        await until(lambda: client.lag.messages == 2)  # the rest of a frame, and the newest
        assert numbers(await raw.read_payloads(count + 1)) == [*range(1, count + 1), count + 4]


@pytest.mark.parametrize("policy", ["skip", "latest"])
async def test_a_client_that_is_cut_in_the_middle_of_a_frame_gets_its_rest_first(policy):
    hub = make_hub(policy, max_lag_bytes=1)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        hub.publish("x", numbered(1, 900_000))
        await until(lambda: client.is_writing_paused)
        await raw.receive(100_000)  # the kernel could take more now, but not of another frame
        await publish_in_turns(hub, "x", 2, 9)
        payloads = await raw.read_payloads(2)
        assert payloads == [numbered(1, 900_000), numbered(9)]


@pytest.mark.parametrize("policy", ["skip", "latest"])
async def test_a_skipper_that_reads_again_misses_nothing_more(policy):
    hub = make_hub(policy, max_lag_bytes=FRAME_BYTES)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        for _ in range(3):
            count = await fall_behind(hub, "x", client)
            await publish_in_turns(hub, "x", count + 1, count + 5)
            assert numbers(await raw.read_payloads(count + 1)) == [*range(1, count + 1), count + 5]
            await until(lambda: not client.is_writing_paused)
            skipped = client.missed.skipped
            for number in range(20):  # one at a time, a hundred times the limit in sum
                hub.publish("x", numbered(number))
                assert numbers(await raw.read_payloads(1)) == [number]
            assert client.missed.skipped == skipped


@pytest.mark.parametrize("policy", POLICIES)
async def test_who_keeps_up_is_not_concerned_by_who_does_not(policy):
    hub = make_hub(policy, max_lag_bytes=1, max_burst_bytes=FRAME_BYTES)
    async with connections(hub, "/x", "/x", "/x", **SMALL_BUFFERS) as [(raw, healthy), *others]:
        for number in range(60):
            hub.publish("x", numbered(number), key="the same")
            assert numbers(await raw.read_payloads(1)) == [number]
        assert (healthy.missed, healthy.is_open) == (Missed(0, 0), True)
        for other, client in others:
            if policy == "evict":
                assert client.disconnected == SLOW_CONSUMER
            else:
                while (await other.read_payloads(1))[0] != numbered(59):
                    pass
                assert sum(client.missed) > 0
        check(hub)


# Bursts.


@pytest.mark.parametrize("policy", ["evict", "skip", "latest"])
async def test_a_burst_is_not_held_against_a_client(policy):
    hub = make_hub(policy, max_lag_bytes=2 * FRAME_BYTES, max_burst_bytes=500 * FRAME_BYTES)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        for number in range(1, 301):
            hub.publish("x", numbered(number))
        await until(lambda: client.is_writing_paused)
        await publish_in_turns(hub, "x", 301, 302)
        assert numbers(await raw.read_payloads(302)) == [*range(1, 303)]
        assert (client.missed, client.is_open) == (Missed(0, 0), True)


@pytest.mark.parametrize(("policy", "kept"), [("skip", 3), ("latest", 1)])
async def test_above_the_burst_a_skipper_jumps_at_once(policy, kept):
    hub = make_hub(policy, max_lag_bytes=3 * FRAME_BYTES, max_burst_bytes=5 * FRAME_BYTES, max_unswept_bytes=1)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        for number in range(count + 1, count + 9):  # and control never comes back to the loop
            hub.publish("x", numbered(number))
            assert client.missed == Missed(0, 0)
        hub.publish("x", numbered(count + 9))
        check(hub)
        assert client.missed == Missed(9 - kept, 0)
        expected = [*range(1, count + 1), *range(count + 10 - kept, count + 10)]
        assert numbers(await raw.read_payloads(len(expected))) == expected


async def test_above_the_burst_a_client_is_evicted_at_once():
    hub = make_hub("evict", max_lag_bytes=3 * FRAME_BYTES, max_burst_bytes=5 * FRAME_BYTES, max_unswept_bytes=1)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (_, client):
        count = await fall_behind(hub, "x", client)
        for number in range(count + 1, count + 9):
            hub.publish("x", numbered(number))
            assert client.is_open
        hub.publish("x", numbered(count + 9))
        assert client.disconnected == SLOW_CONSUMER


# The soft limit, which is a matter of time.


SOFT_LIMITS = {"soft_lag_bytes": 2 * FRAME_BYTES, "soft_lag_seconds": 0.05}


@pytest.mark.parametrize(("policy", "skipped"), [("skip", 2), ("latest", 3)])
async def test_a_skipper_that_is_above_the_soft_limit_for_too_long_jumps_on_an_idle_channel(policy, skipped):
    """To the oldest message within the soft limit, or to the newest."""

    hub = make_hub(policy, **SOFT_LIMITS)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        await publish_in_turns(hub, "x", count + 1, count + 4)
        await until(lambda: client.missed.skipped)  # nothing is published, nothing read
        assert client.missed == Missed(skipped, 0)
        check(hub)
        expected = [*range(1, count + 1), *range(count + 1 + skipped, count + 5)]
        assert numbers(await raw.read_payloads(len(expected))) == expected


async def test_a_client_that_is_above_the_soft_limit_for_too_long_is_evicted_on_an_idle_channel():
    hub = make_hub("evict", **SOFT_LIMITS)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (_, client):
        count = await fall_behind(hub, "x", client)
        await publish_in_turns(hub, "x", count + 1, count + 4)
        await until(lambda: not client.is_open)
        assert client.disconnected == SLOW_CONSUMER


@pytest.mark.parametrize("policy", ["evict", "skip", "latest"])
async def test_at_the_soft_limit_a_client_may_stay(policy):
    hub = make_hub(policy, **SOFT_LIMITS)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        await publish_in_turns(hub, "x", count + 1, count + 3)
        await asyncio.sleep(0.2)  # of which a quarter would be too long above it
        assert numbers(await raw.read_payloads(count + 3)) == [*range(1, count + 4)]
        assert (client.missed, client.is_open) == (Missed(0, 0), True)


@pytest.mark.parametrize("policy", ["evict", "skip", "latest"])
async def test_the_time_above_the_soft_limit_begins_anew_for_who_has_caught_up(policy):
    hub = make_hub(policy, soft_lag_bytes=FRAME_BYTES, soft_lag_seconds=seconds(0.25))
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        for _ in range(2):
            count = await fall_behind(hub, "x", client)
            await publish_in_turns(hub, "x", count + 1, count + 4)
            assert (client.missed, client.is_open) == (Missed(0, 0), True)
            assert numbers(await raw.read_payloads(count + 4)) == [*range(1, count + 5)]
            await until(lambda: not client.is_writing_paused)
            await asyncio.sleep(seconds(0.3))


# One client, several channels.


async def test_a_client_may_be_on_channels_of_every_policy_at_once():
    hub = make_hub("evict", "main")
    hub.configure("skip", policy="skip", max_lag_bytes=3 * FRAME_BYTES)
    hub.configure("latest", policy="latest", max_lag_bytes=1)
    hub.configure("conflate", policy="conflate")
    async with connections(hub, "/main", **SMALL_BUFFERS) as (raw, client):
        for channel in ("skip", "latest", "conflate"):
            client.subscribe(channel)
        count = await fall_behind(hub, "main", client)
        for number in range(1, 7):
            for thousands, channel in enumerate(["main", "skip", "latest", "conflate"]):
                key = number % 2 if channel == "conflate" else None
                hub.publish(channel, numbered(1000 * thousands + number), key=key)
            await end_turn()
        check(hub)
        expected = {*range(1, count + 1), *range(1, 7), 1004, 1005, 1006, 2006, 3005, 3006}
        received = numbers(await raw.read_payloads(count + 6 + 3 + 1 + 2))
        assert set(received) == expected
        for thousands in range(1, 4):  # in order on each channel
            of_channel = [number for number in received if number // 1000 == thousands]
            assert of_channel == sorted(of_channel)
        assert client.missed == Missed(skipped=3 + 5, conflated=4)


async def test_a_client_that_is_too_slow_for_one_channel_leaves_all_of_them():
    hub = make_hub("skip", "patient")
    hub.configure("strict", max_lag_bytes=1, max_burst_bytes=0)
    async with connections(hub, "/patient", **SMALL_BUFFERS) as (raw, client):
        client.subscribe("strict")
        count = await fall_behind(hub, "patient", client)
        hub.publish("patient", numbered(count + 1))
        await end_turn()
        assert client.is_open
        hub.publish("strict", "one too much")
        await end_turn()
        assert (client.disconnected, client.channels) == (SLOW_CONSUMER, ())
        assert hub.stats()["subscriptions"] == 0
        frames = await raw.read_to_close()
        assert numbers(frame.payload for frame in frames[:-1]) == [*range(1, count + 1)]


# Direct messages, and an end, for a client that is behind.


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_direct_message_overtakes_the_backlog_at_the_boundary_of_a_frame(policy):
    hub = make_hub(policy)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        await publish_in_turns(hub, "x", count + 1, count + 3)
        assert client.send(numbered(999))
        payloads = numbers(await raw.read_payloads(count + 4))
        assert payloads == [*range(1, count + 1), 999, *range(count + 1, count + 4)]


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_close_of_a_client_that_is_behind_follows_the_frame_it_was_cut_in(policy):
    hub = make_hub(policy)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        count = await fall_behind(hub, "x", client)
        await publish_in_turns(hub, "x", count + 1, count + 3)
        client.send(numbered(999))
        client.close(4000, "enough")
        assert client.disconnected == Disconnect(4000, "enough", "server", "application")
        frames = await raw.read_to_close()
        assert numbers(frame.payload for frame in frames[:-1]) == [*range(1, count + 1), 999]
        assert frames[-1].payload == close_payload(4000, "enough")


@pytest.mark.parametrize("policy", POLICIES)
async def test_direct_messages_alone_put_a_client_behind_too(policy):
    """Its socket is full, whoever has filled it."""

    hub = make_hub(policy, max_lag_bytes=FRAME_BYTES, max_burst_bytes=0)
    async with connections(hub, "/x", **SMALL_BUFFERS) as (raw, client):
        direct = 0
        while not client.is_writing_paused:
            direct += 1
            client.send(numbered(direct))
        await publish_in_turns(hub, "x", 1001, 1005, key="k")
        if policy == "evict":
            assert client.disconnected == SLOW_CONSUMER
        else:
            assert numbers(await raw.read_payloads(direct + 1)) == [*range(1, direct + 1), 1005]
            assert client.missed == (Missed(0, 4) if policy == "conflate" else Missed(4, 0))
